"""Layers of torch become ours where they stand, and torch's again."""

import copy

import pytest
import torch
from torch import nn

from xmkern import nn as xnn


def transformer():
    torch.manual_seed(0)
    return nn.Transformer(8, 2, 2, 2, 16, dropout=0.0, batch_first=True)


def results(model):
    torch.manual_seed(1)
    source, target = torch.randn(3, 6, 8), torch.randn(3, 4, 8)
    padding = torch.arange(6) >= torch.tensor([6, 3, 4])[:, None]
    causal = nn.Transformer.generate_square_subsequent_mask(4)
    out = model(
        source, target, tgt_mask=causal, src_key_padding_mask=padding, memory_key_padding_mask=padding,
        tgt_is_causal=True,
    )  # fmt: skip
    grads = torch.autograd.grad(out.square().sum(), [*model.parameters()])
    return [out, *grads]


def test_a_transformer_there_and_back():
    model = transformer()
    before = copy.deepcopy(model)
    parameters = dict(model.named_parameters())
    changed = xnn.replace(model)
    layers = {"TransformerEncoderLayer": 2, "TransformerDecoderLayer": 2, "Linear": 8}
    assert changed == {"MultiheadAttention": 6, **layers}
    assert isinstance(model.decoder.layers[1].multihead_attn, xnn.MultiheadAttention)
    assert type(model.encoder.layers[0]) is xnn.TransformerEncoderLayer
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert list(model.state_dict()) == list(before.state_dict())
    for ours, theirs in zip(results(model), results(before), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert xnn.restore(model) == changed
    for ours, theirs in zip(results(model), results(before), strict=True):
        assert torch.equal(ours, theirs)


def test_the_module_itself():
    layer = nn.MultiheadAttention(8, 2)
    assert xnn.replace(layer) == {"MultiheadAttention": 1}
    assert type(layer) is xnn.MultiheadAttention


def test_nothing_to_replace_is_an_error():
    class Own(nn.MultiheadAttention):
        pass

    class Projection(nn.Linear):
        pass

    model = nn.Sequential(Projection(2, 2), Own(8, 2))
    with pytest.raises(ValueError, match=r"Sequential has no layer of torch\.nn to replace"):
        xnn.replace(model)
    with pytest.raises(ValueError, match=r"Transformer has no layer of xmkern\.nn to replace"):
        xnn.restore(transformer())


def test_parametrized_layers_there_and_back():
    model = nn.Sequential(nn.Linear(4, 4))
    x, weight_norm = torch.randn(2, 4), nn.utils.parametrizations.weight_norm
    expected = weight_norm(model[0])(x)
    twin = copy.deepcopy(model)
    assert xnn.replace(model) == {"Linear": 1}
    assert isinstance(model[0], xnn.Linear)
    assert not isinstance(twin[0], xnn.Linear)
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(copy.deepcopy(model)(x), expected)
    assert xnn.restore(model) == {"Linear": 1}
    torch.testing.assert_close(model(x), expected)
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is nn.Linear
