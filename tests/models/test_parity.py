"""Other libraries' models with random weights and ours with the same weights compute the same."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.models.twins import Twin, assert_same, inputs
from xmkern.data.words import END
from xmkern.models import create_model

transformers = pytest.importorskip("transformers")


def clip() -> Twin:
    text = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 4}
    text |= {"max_position_embeddings": 12, "num_hidden_layers": 2, "eos_token_id": 98}
    vision = {"image_size": 32, "patch_size": 8, "hidden_size": 64, "intermediate_size": 256}
    vision |= {"num_attention_heads": 4, "num_hidden_layers": 2}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    theirs = transformers.CLIPModel(config)
    ours = create_model(
        "clip", "paper", size=32, patch=8, vision_dim=64, vision_depth=2, vision_heads=4, vocabulary=99, length=12,
        text_dim=32, text_depth=2, text_heads=4, dim=24, end=98,
    )  # fmt: skip
    pictures, words, there = inputs(vocabulary=98)
    words[words == END] = 98  # their 2 would mean the greatest number

    def outputs() -> tuple[tuple[Tensor, Tensor], ...]:
        a = theirs(input_ids=words, pixel_values=pictures, attention_mask=there.long())
        b = ours(pictures, words)
        return (a.image_embeds, b.picture), (a.text_embeds, b.text), (theirs.logit_scale.exp(), b.logit_scale)

    return Twin(theirs, ours, outputs)


def vilt() -> Twin:
    config = transformers.ViltConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32,
        patch_size=8, max_position_embeddings=12, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    theirs = transformers.ViltForMaskedLM(config)
    torch.nn.init.normal_(theirs.vilt.embeddings.cls_token)
    torch.nn.init.normal_(theirs.vilt.embeddings.position_embeddings)
    ours = create_model(
        "vilt", "paper", size=32, patch=8, vocabulary=99, length=12, dim=32, depth=2, heads=4, hidden=64, answers=7
    )
    pictures, words, there = inputs()

    def outputs() -> tuple[tuple[Tensor, Tensor], ...]:
        a = theirs(input_ids=words, pixel_values=pictures, attention_mask=there.long(), output_hidden_states=True)
        b = ours(pictures, words)
        return ((a.logits[there], ours.word_head(b.words)[there]),)

    return Twin(theirs, ours, outputs)


@pytest.mark.parametrize("make", [clip, vilt], ids=lambda make: make.__name__)
def test_same_weights_give_the_same_outputs_and_gradients(make: Callable[[], Twin]) -> None:
    assert_same(make)
