"""The product of a linear layer, wherever it is computed."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xmkern._functional.linear import _Linear, linear
from xmkern.testing import assert_matches_reference


def operands(rows, dtype=torch.float32, inner=48, outer=32):
    torch.manual_seed(rows)
    x, weight, bias = torch.randn(2, rows, inner), torch.randn(outer, inner), torch.randn(outer)
    return {"x": x.to(dtype), "weight": weight.to(dtype), "bias": bias.to(dtype)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 40, 333])
def test_value_and_gradients(rows, bias, dtype):
    inputs = {name: x.requires_grad_() for name, x in operands(rows, dtype).items() if bias or name != "bias"}
    assert_matches_reference(linear, inputs, reference=F.linear)


def test_who_serves():
    x = operands(40)
    assert "Linear" in type(linear(**{name: y.requires_grad_() for name, y in x.items()}).grad_fn).__name__
    assert _Linear.apply(*x.values()).shape == (2, 40, 32)
    wide = {name: y.detach().double() for name, y in x.items()}
    assert torch.equal(linear(**wide), F.linear(*wide.values()))


def test_gradients_that_lie_otherwise():
    x = {name: each.requires_grad_() for name, each in operands(40).items()}
    for change in (torch.sum, lambda out: (out.transpose(0, 2) * torch.arange(2)).sum()):
        found, expected = (torch.autograd.grad(change(call(*x.values())), [*x.values()]) for call in (linear, F.linear))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


def test_a_gradient_is_differentiated():
    x = {name: each.requires_grad_() for name, each in operands(40).items()}
    found, expected = (
        torch.autograd.grad(
            torch.autograd.grad(call(*x.values()).square().sum(), x["x"], create_graph=True)[0].square().sum(),
            [x["x"], x["weight"]],
        )
        for call in (linear, F.linear)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_under_a_compiler_and_autocast():
    layer, x = nn.Linear(48, 32), operands(40)["x"]
    call = torch.compile(lambda x: linear(x, layer.weight, layer.bias), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(call(x), layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, layer.weight, layer.bias).dtype == torch.bfloat16
