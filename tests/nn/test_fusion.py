"""CoAttentionBlock and CrossModalityBlock against ViLBERT's and LXMERT's layers on the same weights."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from tests.nn.vilbert import ConnectionLayer, hide
from xmkern import masks
from xmkern.nn import CoAttentionBlock, CrossModalityBlock


def lengths_and_visible(*lengths: int) -> tuple[Tensor, Tensor]:
    lengths_ = torch.tensor(lengths)
    return lengths_, torch.arange(max(lengths)) < lengths_[:, None]


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.3, 0.3)


def of_vilbert(layer: ConnectionLayer, dim_a: int, dim_b: int, inner: int, heads: int) -> CoAttentionBlock:
    """Ours with the reference's weights; a is stream 1."""
    hidden = (layer.v_intermediate.out_features, layer.t_intermediate.out_features)
    block = CoAttentionBlock(dim_a, dim_b, heads, attention_dim=inner, hidden_a=hidden[0], hidden_b=hidden[1])
    state = {}
    for part in ("weight", "bias"):
        for side, number in (("a", 1), ("b", 2)):
            projections = [getattr(getattr(layer, f"{name}{number}"), part) for name in ("query", "key", "value")]
            state[f"qkv_{side}.{part}"] = torch.cat(projections)
            state[f"out_{side}.{part}"] = getattr(getattr(layer, f"dense{number}"), part)
            state[f"attention_norm_{side}.{part}"] = getattr(getattr(layer, f"LayerNorm{number}"), part)
            letter = {"a": "v", "b": "t"}[side]
            state[f"feed_forward_{side}.up.{part}"] = getattr(getattr(layer, f"{letter}_intermediate"), part)
            state[f"feed_forward_{side}.down.{part}"] = getattr(getattr(layer, f"{letter}_output"), part)
            state[f"norm_{side}.{part}"] = getattr(getattr(layer, f"{letter}_LayerNorm"), part)
    block.load_state_dict(state)
    return block


def test_co_attention_block_is_vilberts_layer():
    torch.manual_seed(0)
    layer = ConnectionLayer(24, 16, 32, 4, 40, 48)
    randomise(layer)
    block = of_vilbert(layer, 24, 16, 32, 4)
    _, visible_a = lengths_and_visible(9, 5, 2)
    lengths_b, visible_b = lengths_and_visible(3, 6, 7)
    inputs = torch.randn(3, 9, 24), torch.randn(3, 7, 16)
    ours, theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    outs = block(*ours, visible_a, lengths_b)
    expected = layer(theirs[0], hide(visible_a), theirs[1], hide(visible_b))
    torch.testing.assert_close(outs, expected, rtol=1e-5, atol=1e-5)
    cotangents = [torch.randn_like(x) for x in outs]
    torch.autograd.backward(outs, cotangents)
    torch.autograd.backward(expected, cotangents)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        block.qkv_a.weight.grad,
        torch.cat([layer.query1.weight.grad, layer.key1.weight.grad, layer.value1.weight.grad]),
        rtol=1e-4,
        atol=1e-4,
    )
    torch.testing.assert_close(
        block.feed_forward_b.up.weight.grad, layer.t_intermediate.weight.grad, rtol=1e-4, atol=1e-4
    )


def of_lxmert(layer: nn.Module, dim: int, heads: int, hidden: int) -> CrossModalityBlock:
    block = CrossModalityBlock(dim, heads, hidden=hidden)
    attentions = {"cross": layer.visual_attention.att, "attention_a": layer.lang_self_att.self}
    attentions["attention_b"] = layer.visn_self_att.self
    modules = {
        "cross.out": layer.visual_attention.output.dense,
        "cross_norm": layer.visual_attention.output.LayerNorm,
        "attention_a.out": layer.lang_self_att.output.dense,
        "attention_norm_a": layer.lang_self_att.output.LayerNorm,
        "attention_b.out": layer.visn_self_att.output.dense,
        "attention_norm_b": layer.visn_self_att.output.LayerNorm,
        "feed_forward_a.up": layer.lang_inter.dense,
        "feed_forward_a.down": layer.lang_output.dense,
        "norm_a": layer.lang_output.LayerNorm,
        "feed_forward_b.up": layer.visn_inter.dense,
        "feed_forward_b.down": layer.visn_output.dense,
        "norm_b": layer.visn_output.LayerNorm,
    }
    state = {f"{name}.{part}": getattr(module, part) for name, module in modules.items() for part in ("weight", "bias")}
    for name, attention in attentions.items():
        for part in ("weight", "bias"):
            parts = [getattr(module, part) for module in (attention.query, attention.key, attention.value)]
            state[f"{name}.qkv.{part}"] = torch.cat(parts)
    block.load_state_dict(state)
    return block


def test_cross_modality_block_is_lxmerts_layer():
    modeling = pytest.importorskip("transformers.models.lxmert.modeling_lxmert")
    from transformers import LxmertConfig

    torch.manual_seed(0)
    config = LxmertConfig(hidden_size=32, num_attention_heads=4, intermediate_size=48)
    layer = modeling.LxmertXLayer(config).eval()
    randomise(layer)
    block = of_lxmert(layer, 32, 4, 48)
    _, visible_a = lengths_and_visible(9, 5, 2)
    _, visible_b = lengths_and_visible(3, 6, 7)
    inputs = torch.randn(3, 9, 32), torch.randn(3, 7, 32)
    ours, theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    outs = block(*ours, visible_a, visible_b)
    expected = layer(theirs[0], hide(visible_a), theirs[1], hide(visible_b))
    torch.testing.assert_close(outs, expected, rtol=1e-5, atol=1e-5)
    cotangents = [torch.randn_like(x) for x in outs]
    torch.autograd.backward(outs, cotangents)
    torch.autograd.backward(expected, cotangents)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-4)
    attention = layer.visual_attention.att
    torch.testing.assert_close(
        block.cross.qkv.weight.grad,
        torch.cat([attention.query.weight.grad, attention.key.weight.grad, attention.value.weight.grad]),
        rtol=1e-4,
        atol=1e-4,
    )


BLOCKS = {"co_attention": lambda **kw: CoAttentionBlock(8, 8, 2, **kw)}
BLOCKS["cross_modality"] = lambda **kw: CrossModalityBlock(8, 2, **kw)


@pytest.mark.parametrize("name", BLOCKS)
def test_padding_may_hold_anything(name):
    torch.manual_seed(0)
    block, a, b = BLOCKS[name](), torch.randn(2, 6, 8), torch.randn(2, 5, 8)
    lengths = torch.tensor([4, 6]), torch.tensor([5, 2])
    outs = block(a, b, *lengths)
    for i in range(2):
        L, S = lengths[0][i], lengths[1][i]
        alone = block(a[i : i + 1, :L], b[i : i + 1, :S])
        torch.testing.assert_close((outs[0][i : i + 1, :L], outs[1][i : i + 1, :S]), alone)


@pytest.mark.parametrize("name", BLOCKS)
def test_masks_of_all_kinds_are_one(name):
    torch.manual_seed(0)
    block, a, b = BLOCKS[name](), torch.randn(2, 6, 8), torch.randn(2, 5, 8)
    lengths = torch.tensor([4, 6]), torch.tensor([5, 2])
    by_bool = [torch.arange(n) < length[:, None] for n, length in zip((6, 5), lengths, strict=True)]
    by_mask = [masks.key_lengths(length) for length in lengths]
    expected = block(a, b, *lengths)
    torch.testing.assert_close(block(a, b, *by_bool), expected)
    torch.testing.assert_close(block(a, b, *by_mask), expected)
    with pytest.raises(ValueError, match=r"mask must be bool \[B, S\]"):
        block(a, b, torch.zeros(2, 6))


@pytest.mark.parametrize("name", BLOCKS)
def test_dropout_of_training_alone(name):
    block, inputs = BLOCKS[name](dropout=0.5, attention_dropout=0.5), (torch.randn(2, 6, 8), torch.randn(2, 5, 8))
    assert not torch.equal(block(*inputs)[0], block(*inputs)[0])
    block.eval()
    assert torch.equal(block(*inputs)[0], block(*inputs)[0])


@pytest.mark.parametrize("name", BLOCKS)
def test_compiles_in_one_piece_copies_and_pickles(name):
    block, inputs = BLOCKS[name](), (torch.randn(2, 6, 8), torch.randn(2, 5, 8), torch.tensor([4, 6]))
    expected = block(*inputs)
    torch.testing.assert_close(torch.compile(block, fullgraph=True, backend="aot_eager")(*inputs), expected)
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        torch.testing.assert_close(twin(*inputs), expected, rtol=0, atol=0)
