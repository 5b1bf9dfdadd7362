"""TransformerBlock, CrossAttention and GatedCrossAttention against the same parameters in plain PyTorch."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from tests.nn.twins import assert_twins_agree, twins
from xmkern import masks
from xmkern.nn import CrossAttention, FeedForward, GatedCrossAttention, SelfAttention, TransformerBlock

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
    "geglu": lambda x: x.chunk(2, -1)[0] * F.gelu(x.chunk(2, -1)[1]),
    "swiglu": lambda x: x.chunk(2, -1)[0] * F.silu(x.chunk(2, -1)[1]),
}


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, visible: Tensor | None = None) -> Tensor:
    """[B, L, E], [B, S, E], [B, S, E] -> [B, L, E]"""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def self_attend(module: SelfAttention, x: Tensor, visible: Tensor | None = None) -> Tensor:
    return module.out(attend(*module.qkv(x).chunk(3, -1), module.num_heads, visible))


def cross_attend(module: CrossAttention, x: Tensor, contexts: list[Tensor], visible: Tensor | None = None) -> Tensor:
    sources = [kv(context).chunk(2, -1) for kv, context in zip(module.kv, contexts, strict=True)]
    keys, values = (torch.cat(parts, 1) for parts in zip(*sources, strict=True))
    return module.out(attend(module.q(x), keys, values, module.num_heads, visible))


class PlainBlock(TransformerBlock):
    def __init__(self, *args, activation="gelu", **kwargs):
        super().__init__(*args, activation=activation, **kwargs)
        self.plain = ACTIVATIONS[activation]

    def forward(self, x, context=None, *, visible=None, context_visible=None, **given):
        branches = [lambda y: self_attend(self.attention, y, visible)]
        if context is not None:
            branches.append(lambda y: cross_attend(self.cross_attention, y, [context], context_visible))
        branches.append(lambda y: self.feed_forward.down(self.plain(self.feed_forward.up(y))))
        for i, (branch, norm) in enumerate(zip(branches, self.norms, strict=True)):
            if self.order == "post":
                x = norm(x + branch(x))
            elif self.order == "pre":
                x = x + branch(norm(x))
            else:
                x = x + self.branch_norms[i](branch(norm(x)))
        return x


class OurBlock(TransformerBlock):
    """With the plain one's masks, bool tensors of which the plain one makes other use."""

    def forward(self, x, context=None, *, visible=None, context_visible=None):
        return super().forward(x, context, mask=visible, context_mask=context_visible)


@st.composite
def block_calls(draw):
    torch.manual_seed(draw(st.integers(0, 2**31)))
    heads, batch = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 3))
    # Norms of a few numbers are mostly rounding.
    dim, tokens, length = draw(st.sampled_from([16, 24, 40])), draw(st.integers(1, 7)), draw(st.integers(1, 7))
    width = draw(st.none() | st.integers(3, 9))
    pair = twins(
        OurBlock, PlainBlock, dim, heads, order=draw(st.sampled_from(["pre", "post", "sandwich"])),
        hidden=draw(st.none() | st.integers(3, 9)), activation=draw(st.sampled_from(list(ACTIVATIONS))),
        context_dim=width, head_dim=draw(st.none() | st.integers(1, 4)),
    )  # fmt: skip
    inputs = {"x": torch.randn(batch, tokens, dim, requires_grad=True)}
    if width is not None:
        inputs["context"] = torch.randn(batch, length, width, requires_grad=True)
        if draw(st.booleans()):
            inputs["context_visible"] = torch.rand(batch, 1, tokens, length) < 0.6
            inputs["context_visible"][..., 0] = True
    if draw(st.booleans()):
        inputs["visible"] = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    return *pair, inputs


@given(block_calls())
def test_blocks_match_plain_pytorch(call):
    assert_twins_agree(*call)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_blocks_are_torch_layers(order):
    """The same numbers as torch.nn.TransformerEncoderLayer of the same weights."""
    ours = TransformerBlock(8, 2, order=order, hidden=16).eval()
    theirs = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=order == "pre").eval()
    names = {"attention.qkv.": "self_attn.in_proj_", "attention.out": "self_attn.out_proj", "norms.0": "norm1"}
    names |= {"norms.1": "norm2", "feed_forward.up": "linear1", "feed_forward.down": "linear2"}
    state = {}
    for name, value in ours.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = value
    theirs.load_state_dict(state)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x))


class PlainCross(CrossAttention):
    def forward(self, x, first, second):
        return cross_attend(self, x, [first, second])


class OurCross(CrossAttention):
    def forward(self, x, first, second):
        return super().forward(x, [first, second])


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(1, 7), st.integers(0, 5))
def test_several_contexts_are_one_softmax(seed, tokens, first, second):
    torch.manual_seed(seed)
    pair = twins(OurCross, PlainCross, 8, 2, [6, 3])
    inputs = {"x": (2, tokens, 8), "first": (2, first, 6), "second": (2, second, 3)}
    assert_twins_agree(*pair, {name: torch.randn(shape).requires_grad_() for name, shape in inputs.items()})


def test_keys_and_values_are_projected_once():
    module = CrossAttention(8, 2, [6, 8])
    x, text = torch.randn(3, 5, 8), torch.randn(3, 7, 6)
    lengths = torch.tensor([7, 3, 1])
    seen = []
    module.kv[0].register_forward_hook(lambda *call: seen.append(call))
    held = module.keys_values(text, masks.key_lengths(lengths))
    outs = [module(x, [held, x + step]) for step in range(3)]
    assert len(seen) == 1
    for i, length in enumerate(lengths.tolist()):
        alone = module(x[i : i + 1], [text[i : i + 1, :length], x[i : i + 1] + 2])
        torch.testing.assert_close(outs[2][i : i + 1], alone)


class PlainGated(GatedCrossAttention):
    def forward(self, x, context):
        attended = cross_attend(self.attention, self.attention_norm(x), [context])

        def feed_forward(y):
            return self.feed_forward.down(F.gelu(self.feed_forward.up(self.feed_forward_norm(y))))

        if self.gate is None:
            x = x + self.attention_gate.tanh() * attended
            return x + self.feed_forward_gate.tanh() * feed_forward(x)
        x = x + self.gate(torch.cat([x, attended], -1)).sigmoid() * attended
        return x + feed_forward(x)


@pytest.mark.parametrize("gate", ["tanh", "sigmoid"])
def test_gates_match_plain_pytorch(gate):
    torch.manual_seed(0)
    pair = twins(GatedCrossAttention, PlainGated, 8, 2, 6, gate=gate)
    inputs = {"x": torch.randn(2, 5, 8, requires_grad=True), "context": torch.randn(2, 7, 6, requires_grad=True)}
    assert_twins_agree(*pair, inputs)


def test_a_tanh_gate_begins_shut():
    x = torch.randn(2, 5, 8)
    assert torch.equal(GatedCrossAttention(8, 2, 6)(x, torch.randn(2, 7, 6)), x)


@pytest.mark.parametrize("order", ["pre", "post", "sandwich"])
def test_dropout_of_training_alone(order):
    torch.manual_seed(0)
    module = TransformerBlock(8, 2, order=order, dropout=0.5, attention_dropout=0.5)
    x = torch.randn(2, 5, 8)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))
    always = TransformerBlock(8, 2, order=order, dropout=1.0)
    always.load_state_dict(module.state_dict())
    nothing = {"pre": x, "sandwich": x + sum(norm.bias for norm in always.branch_norms)}
    nothing["post"] = always.norms[1](always.norms[0](x))
    torch.testing.assert_close(always(x), nothing[order])


def modules():
    x, context = torch.randn(2, 5, 8), torch.randn(2, 7, 6)
    return {
        "block": (TransformerBlock(8, 2), (x,)),
        "sandwich": (TransformerBlock(8, 2, order="sandwich", context_dim=6), (x, context)),
        "cross": (CrossAttention(8, 2, [6, 8]), (x, [context, x])),
        "gated": (GatedCrossAttention(8, 2, 6, gate="sigmoid"), (x, context)),
        "feed_forward": (FeedForward(8, activation="geglu"), (x,)),
    }


class Adapted(nn.Module):
    """As adapters wrap a layer: with its parameters, and something more."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    weight, bias = property(lambda self: self.layer.weight), property(lambda self: self.layer.bias)

    def forward(self, x):
        return self.layer(x) + 1


def layers(module):
    return [name for name, each in module.named_modules() if isinstance(each, nn.Linear | nn.LayerNorm)]


CHANGES = {
    "adapter": lambda parent, name: setattr(parent, name, Adapted(getattr(parent, name))),
    "hook": lambda parent, name: getattr(parent, name).register_forward_hook(lambda layer, given, out: out + 1),
    "own forward": lambda parent, name: setattr(
        layer := getattr(parent, name), "forward", lambda x: type(layer).forward(layer, x) + 1
    ),
    "moved bias": lambda parent, name: getattr(parent, name).bias.data.add_(1),
}


@pytest.mark.parametrize("name", [*(f"block {order}" for order in ("pre", "post", "sandwich")), "tanh", "sigmoid"])
def test_layers_that_others_have_changed(name):
    """One layer after the other gives 1 more, which its bias could as well."""
    torch.manual_seed(0)
    x, context = torch.randn(2, 5, 8), torch.randn(2, 7, 6)
    if name.startswith("block"):
        module = TransformerBlock(8, 2, order=name.split()[1], context_dim=6)
    else:
        module = GatedCrossAttention(8, 2, 6, gate=name)
        if name == "tanh":
            nn.init.ones_(module.attention_gate), nn.init.ones_(module.feed_forward_gate)
    for layer in layers(module):
        found = {}
        for kind, change in CHANGES.items():
            path, _, last = layer.rpartition(".")
            twin = copy.deepcopy(module)
            change(twin.get_submodule(path), last)
            found[kind] = twin(x, context)
        expected = found.pop("moved bias")
        for each in found.values():
            torch.testing.assert_close(each, expected, msg=lambda text, layer=layer: f"{layer}: {text}")


@pytest.mark.parametrize("name", modules())
def test_weights_that_are_made_in_a_hook(name):
    """By weight_norm of old, and by pruning, of which two steps fail on a weight that is not made anew."""
    module, inputs = modules()[name]
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            prune.l1_unstructured(layer, "weight", 0.5)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    outs = []
    for _ in range(2):
        outs.append(module(*inputs))
        outs[-1].square().sum().backward()
        optimizer.step()
    assert not torch.equal(*outs)


@pytest.mark.parametrize("name", modules())
def test_compiles_in_one_piece_copies_and_pickles(name):
    module, inputs = modules()[name]
    expected = module(*inputs)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(*inputs), expected)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(*inputs), expected)


def test_autocast_and_bfloat16():
    module, x = TransformerBlock(32, 4), torch.randn(2, 9, 32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = module(x)
    assert mixed.dtype == torch.float32  # the residual stays what it was
    half = module.to(torch.bfloat16)(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(mixed, half.float(), rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TransformerBlock(8, 2, order="middle"), "order must be 'pre', 'post' or 'sandwich', not 'middle'"),
        (lambda: TransformerBlock(8, 3), "num_heads must divide dim = 8"),
        (lambda: FeedForward(8, activation="tanh"), "activation must be one of gelu"),
        (lambda: TransformerBlock(8, 2)(torch.randn(1, 2, 8), torch.randn(1, 2, 8)), "context must be given where"),
        (lambda: TransformerBlock(8, 2, context_dim=4)(torch.randn(1, 2, 8)), "context must be given where"),
        (lambda: CrossAttention(8, 2, [4, 4])(torch.randn(1, 2, 8), torch.randn(1, 2, 4)), "context must be 2 of them"),
        (lambda: CrossAttention(8, 2, []), "context_dim must name at least one"),
        (
            lambda: CrossAttention(8, 2, [4, 4])(torch.randn(1, 2, 8), [torch.randn(1, 2, 4)] * 2, masks.causal()),
            "mask must be None with several contexts",
        ),
        (lambda: GatedCrossAttention(8, 2, gate="relu"), "gate must be 'tanh' or 'sigmoid'"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
