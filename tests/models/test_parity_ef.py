"""Decoders and encoder-decoders compute what transformers' own compute from the same weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.models.test_parity import Twin, inputs
from tests.models.test_parity import test_same_weights_give_the_same_outputs_and_gradients as agree
from xmkern.models import create_model

transformers = pytest.importorskip("transformers")


def gpt() -> Twin:
    config = transformers.GPT2Config(
        vocab_size=99, n_positions=20, n_embd=32, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2
    )
    theirs = transformers.GPT2Model(config)
    ours = create_model("gpt", "paper", vocabulary=99, length=20, dim=32, depth=3, heads=4, band=0)
    _, words, _ = inputs()

    def outputs() -> tuple[tuple[Tensor, Tensor], ...]:
        return ((theirs(words).last_hidden_state, ours(words).hidden),)

    return Twin(theirs, ours, outputs)


def git() -> Twin:
    vision = {"image_size": 32, "patch_size": 8, "hidden_size": 64, "intermediate_size": 256}
    vision |= {"num_attention_heads": 4, "num_hidden_layers": 2}
    config = transformers.GitConfig(
        vision_config=vision, vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=12, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    theirs = transformers.GitForCausalLM(config)
    ours = create_model(
        "git", "paper", size=32, patch=8, vision_dim=64, vision_depth=2, vision_heads=4, vocabulary=99, length=12,
        dim=32, depth=2, heads=4,
    )  # fmt: skip
    pictures, words, there = inputs()

    def outputs() -> tuple[tuple[Tensor, Tensor], ...]:
        a = theirs(input_ids=words, pixel_values=pictures, attention_mask=there.long()).logits
        b = ours(pictures, words)
        return (a[:, b.patches.shape[1] :][there], b.logits[there]), (a[:, : b.patches.shape[1]], ours.out(b.patches))

    return Twin(theirs, ours, outputs)


def vl_t5() -> Twin:
    config = transformers.T5Config(
        vocab_size=99, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0, pad_token_id=0
    )
    theirs = transformers.T5Model(config)
    ours = create_model("vl_t5", "paper", vocabulary=99, dim=32, depth=2, heads=4, head_dim=16, hidden=64, features=8)
    _, words, there = inputs()
    answer = torch.randint(5, 99, (3, 40))  # far enough for the logarithmic buckets

    def outputs() -> tuple[tuple[Tensor, Tensor], ...]:
        a = theirs(input_ids=words, attention_mask=there.long(), decoder_input_ids=answer)
        b = ours(words, answer)
        return (a.encoder_last_hidden_state[there], b.encoded[there]), (a.last_hidden_state, b.decoded)

    return Twin(theirs, ours, outputs)


@pytest.mark.parametrize("make", [gpt, git, vl_t5], ids=lambda make: make.__name__)
def test_same_weights_give_the_same(make: Callable[[], Twin]) -> None:
    agree(make)
