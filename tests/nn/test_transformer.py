"""xmkern.nn's transformer layers against torch.nn's with the same weights, alone and in torch's stacks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests.nn.twins import assert_twins_agree, twins
from xmkern.nn import MultiheadAttention, TransformerDecoderLayer, TransformerEncoderLayer

LAYERS = {"encoder": (TransformerEncoderLayer, nn.TransformerEncoderLayer)}
LAYERS["decoder"] = (TransformerDecoderLayer, nn.TransformerDecoderLayer)


def padding(length, *lengths):
    return torch.arange(length) >= torch.tensor(lengths)[:, None]


@st.composite
def calls(draw):
    """A pair of layers and the inputs of a call."""
    flag = st.booleans()
    torch.manual_seed(draw(st.integers(0, 2**31)))
    kind, heads = draw(st.sampled_from(list(LAYERS))), draw(st.sampled_from([1, 2, 4]))
    size, batch = heads * draw(st.integers(2, 4)), draw(st.integers(1, 3))
    tokens, memory = draw(st.integers(2, 7)), draw(st.integers(2, 7))
    options = {name: draw(flag) for name in ("norm_first", "bias", "batch_first")}
    options["activation"] = draw(st.sampled_from(["relu", "gelu", F.silu]))
    options["dtype"] = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    pair = twins(*LAYERS[kind], size, heads, 12, 0.0, **options)

    def sequence(length):
        shape = (batch, length, size) if options["batch_first"] else (length, batch, size)
        return torch.randn(shape, dtype=options["dtype"]).requires_grad_()

    def mask(*shape):
        hidden = torch.rand(shape) < 0.4
        hidden[..., 0] = False  # torch gives NaN where all is hidden
        return hidden if draw(flag) else torch.zeros(shape, dtype=options["dtype"]).masked_fill(hidden, -math.inf)

    main = "src" if kind == "encoder" else "tgt"
    inputs = {main: sequence(tokens)}
    places = [(f"{main}_mask", f"{main}_key_padding_mask", tokens)]
    if kind == "decoder":
        inputs["memory"] = sequence(memory)
        places.append(("memory_mask", "memory_key_padding_mask", memory))
    for attn_mask, key_padding_mask, keys in places:
        if draw(flag):
            inputs[attn_mask] = mask(*([batch * heads] if draw(flag) else []), tokens, keys)
        if draw(flag):
            inputs[key_padding_mask] = mask(batch, keys)
    if draw(flag):
        inputs[f"{main}_mask"] = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        inputs["is_causal" if kind == "encoder" else "tgt_is_causal"] = True
    return *pair, inputs


@given(calls())
@settings(max_examples=100)
def test_layers_match_torch(call):
    assert_twins_agree(*call)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"activation": "gelu", "norm_first": True}])
def test_state_dict_and_initial_values_are_those_of_torch(kind, options):
    layers = []
    for cls in LAYERS[kind]:
        torch.manual_seed(0)
        layers.append(cls(8, 2, 16, **options))
    ours, theirs = layers
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    attentions = [part for part in ours.modules() if isinstance(part, nn.MultiheadAttention)]
    assert len(attentions) == (1 if kind == "encoder" else 2)
    assert all(type(part) is MultiheadAttention for part in attentions)


class TestEncoder:
    """In torch.nn.TransformerEncoder."""

    @pytest.mark.parametrize("padded", [False, True])
    @pytest.mark.parametrize("masked", [None, "causal", "bool"])
    @pytest.mark.parametrize("mode", ["train", "eval", "no_grad"])
    @pytest.mark.parametrize("batch_first", [False, True])
    @pytest.mark.filterwarnings("ignore:enable_nested_tensor", "ignore:The PyTorch API of nested tensors")
    @pytest.mark.filterwarnings("ignore:Support for mismatched")
    def test_matches_torch(self, padded, masked, mode, batch_first):
        """Without gradients and with padding alone torch makes its batch ragged, and gives zeros for the padding."""
        torch.manual_seed(0)
        ours, theirs = (
            nn.TransformerEncoder(layer(8, 2, 16, 0.0, batch_first=batch_first), 2, nn.LayerNorm(8))
            for layer in LAYERS["encoder"]
        )
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(3, 6, 8)
        x = x if batch_first else x.transpose(0, 1)
        mask = {"causal": nn.Transformer.generate_square_subsequent_mask(6), "bool": torch.eye(6, dtype=torch.bool)}
        arguments = {"mask": mask.get(masked), "src_key_padding_mask": padding(6, 4, 6, 3) if padded else None}
        with torch.set_grad_enabled(mode != "no_grad"):
            outs = [model.train(mode == "train")(x, **arguments) for model in (ours, theirs)]
        torch.testing.assert_close(*outs)

    def test_runs_our_attention_on_what_torch_made_ragged(self, monkeypatch):
        seen = []
        forward = MultiheadAttention.forward
        monkeypatch.setattr(MultiheadAttention, "forward", lambda *a, **k: seen.append(k) or forward(*a, **k))
        layer = TransformerEncoderLayer(8, 2, 16, batch_first=True)
        model = nn.TransformerEncoder(layer, 2).eval()
        with torch.no_grad():
            out = model(torch.randn(2, 5, 8), src_key_padding_mask=padding(5, 5, 2))
        assert not out[1, 2:].any()
        assert [arguments["key_padding_mask"].shape for arguments in seen] == [(2, 5)] * 2

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    def test_a_ragged_batch_is_as_its_samples_alone(self):
        layer = TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        samples = [torch.randn(5, 8), torch.randn(2, 8)]
        batch = torch.nested.nested_tensor(samples)
        for got, sample in zip(layer(batch, is_causal=True).unbind(), samples, strict=True):
            torch.testing.assert_close(got, layer(sample, is_causal=True))
        with pytest.raises(AssertionError, match="src_key_padding_mask"):
            layer(batch, src_key_padding_mask=padding(5, 5, 2))


@pytest.mark.parametrize("training", [False, True])
def test_in_torch_decoder(training):
    torch.manual_seed(0)
    ours, theirs = (nn.TransformerDecoder(layer(8, 2, 16, 0.0), 2) for layer in LAYERS["decoder"])
    theirs.load_state_dict(ours.state_dict())
    x, memory = torch.randn(5, 2, 8), torch.randn(7, 2, 8)
    arguments = {
        "tgt_mask": nn.Transformer.generate_square_subsequent_mask(5),
        "memory_key_padding_mask": padding(7, 7, 3),
    }
    torch.testing.assert_close(*(model.train(training)(x, memory, **arguments) for model in (ours, theirs)))


def test_in_torch_transformer():
    torch.manual_seed(0)
    options = {"dropout": 0.0, "batch_first": True}
    stacks = (
        nn.TransformerEncoder(TransformerEncoderLayer(8, 2, 16, **options), 1),
        nn.TransformerDecoder(TransformerDecoderLayer(8, 2, 16, **options), 1),
    )
    ours = nn.Transformer(8, 2, custom_encoder=stacks[0], custom_decoder=stacks[1], batch_first=True)
    theirs = nn.Transformer(8, 2, 1, 1, 16, **options)
    theirs.load_state_dict({**theirs.state_dict(), **ours.state_dict()})
    for stack in (theirs.encoder, theirs.decoder):
        stack.norm = None  # which those of one's own do not have
    x, y = torch.randn(2, 6, 8), torch.randn(2, 4, 8)
    masks = {
        "src_key_padding_mask": padding(6, 6, 3),
        "memory_key_padding_mask": padding(6, 6, 3),
        "tgt_is_causal": True,
    }
    masks["tgt_mask"] = torch.ones(4, 4, dtype=torch.bool).triu(1)
    torch.testing.assert_close(ours(x, y, **masks), theirs(x, y, **masks))


@pytest.mark.parametrize("kind", LAYERS)
def test_a_single_sample(kind):
    ours, theirs = twins(*LAYERS[kind], 8, 2, 16, 0.0)
    inputs = [torch.randn(5, 8)] if kind == "encoder" else [torch.randn(5, 8), torch.randn(7, 8)]
    torch.testing.assert_close(ours(*inputs), theirs(*inputs))


@pytest.mark.parametrize("kind", LAYERS)
def test_dropout(kind):
    layer = LAYERS[kind][0](8, 2, 16, 0.3)
    inputs = [torch.randn(5, 2, 8)] * (1 if kind == "encoder" else 2)
    outs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(layer(*inputs))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    layer.eval()
    assert torch.equal(layer(*inputs), layer(*inputs))


def test_dropout_reaches_the_attention_alone_too():
    layer = TransformerEncoderLayer(8, 2, 16, 0.3)
    assert layer.self_attn.dropout == 0.3
    layer.dropout.p = layer.dropout1.p = layer.dropout2.p = 0
    x = torch.randn(5, 2, 8)
    assert not torch.equal(layer(x), layer(x))


def test_a_sample_that_is_all_padding_harms_nobody():
    layer = TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8, requires_grad=True)
    out = layer(x, src_key_padding_mask=padding(5, 5, 0))
    torch.testing.assert_close(out[:1], layer(x[:1]))
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()


def test_wrong_arguments_raise():
    with pytest.raises(RuntimeError, match="relu/gelu"):
        TransformerEncoderLayer(8, 2, activation="tanh")
    with pytest.raises(AssertionError, match="divisible"):
        TransformerDecoderLayer(8, 3)
    with pytest.raises(AssertionError, match="key_padding_mask"):
        TransformerEncoderLayer(8, 2)(torch.zeros(5, 2, 8), src_key_padding_mask=torch.zeros(2, 4, dtype=torch.bool))
