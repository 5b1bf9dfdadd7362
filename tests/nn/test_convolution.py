"""Convolutions in half precision."""

import copy

import pytest
import torch

import xmkern.nn as xnn
from xmkern.testing import assert_matches_reference

CASES = [
    (xnn.Conv1d, (6, 8, 3), {"padding": 1}, (2, 6, 11)),
    (xnn.Conv2d, (3, 16, 4, 4), {}, (2, 3, 16, 13)),
    (xnn.Conv2d, (4, 8, 3), {"padding": 1, "padding_mode": "circular", "groups": 2, "bias": False}, (2, 4, 9, 7)),
    (xnn.Conv2d, (4, 8, (4, 3)), {"padding": "same", "dilation": (1, 2)}, (2, 4, 9, 8)),
    (xnn.Conv1d, (6, 8, 3), {"stride": 2}, (6, 11)),
    (xnn.Conv3d, (3, 8, (2, 4, 4), (2, 4, 4)), {}, (1, 3, 4, 8, 8)),
]
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(params=[False, True], ids=["as the processor is", "without convolutions in half precision"])
def processor(request, monkeypatch):
    if request.param:
        monkeypatch.setattr("xmkern.nn.convolution.torch_crawls", lambda dtype: dtype in HALVES)


def of_torch(layer):
    twin = copy.deepcopy(layer)
    xnn.restore(twin)
    return twin


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize(("kind", "sizes", "options", "shape"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_value_and_gradients(kind, sizes, options, shape, dtype):
    torch.manual_seed(0)
    layer = kind(*sizes, **options).to(dtype)
    twin = of_torch(layer)
    names = [name for name, _ in layer.named_parameters()]

    def call(of):
        return lambda x, **parameters: torch.func.functional_call(of, parameters, (x,))

    inputs = {"x": torch.randn(shape).to(dtype).requires_grad_()}
    inputs |= {name: getattr(layer, name).detach().clone().requires_grad_() for name in names}
    assert_matches_reference(call(layer), inputs, reference=call(twin))


@pytest.mark.usefixtures("processor")
def test_what_is_kept_for_the_gradients_is_what_was_given():
    layer = xnn.Conv2d(3, 16, 3).bfloat16()
    x, kept = torch.randn(2, 3, 8, 8).bfloat16().requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda y: kept.append(y.data_ptr()) or y, lambda y: y):
        out = layer(x)
    assert sorted(kept) == sorted([x.data_ptr(), layer.weight.data_ptr()])
    layer.weight.requires_grad_(False)
    assert torch.autograd.grad(out.sum(), x)[0].dtype == torch.bfloat16


@pytest.mark.usefixtures("processor")
def test_a_gradient_is_differentiated():
    layer = xnn.Conv1d(4, 8, 3, padding="same").bfloat16()
    x = torch.randn(2, 4, 9).bfloat16().requires_grad_()

    def penalty(of):
        (slope,) = torch.autograd.grad(of(x).float().square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.float().square().mean(), of.weight)[0]

    found, expected = penalty(layer), penalty(of_torch(layer))
    torch.testing.assert_close(found, expected, rtol=5e-2, atol=5e-2 * float(expected.abs().max()))


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("dtype", HALVES)
def test_under_transforms(dtype):
    layer, x = xnn.Conv2d(3, 4, 3).to(dtype), torch.randn(5, 2, 3, 6, 6).to(dtype)
    torch.testing.assert_close(torch.vmap(layer)(x), layer(x.flatten(0, 1)).unflatten(0, (5, 2)), rtol=2e-2, atol=2e-2)
    slope = torch.func.grad(lambda y: layer(y).float().sum())(x[0])
    torch.testing.assert_close(
        slope, torch.func.grad(lambda y: of_torch(layer)(y).float().sum())(x[0]), rtol=2e-2, atol=2e-2
    )


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("dtype", HALVES)
def test_under_autocast_and_a_compiler(dtype):
    layer, x = xnn.Conv2d(3, 16, 4, 4), torch.randn(2, 3, 16, 16)
    with torch.autocast("cpu", dtype):
        found, expected = layer(x), of_torch(layer)(x)
    assert found.dtype == expected.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    layer, x = layer.to(dtype), x.to(dtype)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.usefixtures("processor")
def test_what_is_not_half_precision_on_the_cpu_is_torchs():
    layer, x = xnn.Conv2d(3, 16, 4, 4), torch.randn(2, 3, 16, 16)
    assert layer.to("meta")(x.to("meta")).shape == (2, 16, 4, 4)
    double = xnn.Conv2d(3, 16, 4, 4).double()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(double(x.double()), of_torch(double)(x.double()))
