"""What follows a projection under torch.compile, torch.export, torch.func, make_fx and autocast."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental.proxy_tensor import make_fx

import xmkern.functional as xf


def tensors(*shapes, grad=False):
    torch.manual_seed(0)
    return [torch.randn(shape, requires_grad=grad) for shape in shapes]


CALLS = {
    "post": lambda x, y, w: xf.add_layer_norm(x, y, w, linear_bias=2 * w),
    "pre": lambda x, y, w: sum(xf.add_layer_norm(x, y, w, return_sum=True)),
    "relaxed": lambda x, y, w: xf.add_layer_norm(x, y, w, pb_relax=True),
    "rms": lambda x, y, w: xf.add_rms_norm(x, y, w),
    "sandwich": lambda x, y, w: xf.sandwich_layer_norm(x, y, w),
    "sandwich and norm": lambda x, y, w: sum(xf.sandwich_layer_norm(x, y, w, next_norm=True, next_bias=2 * w)),
    "gate": lambda x, y, w: xf.gated_residual(x, y, w, bias=2 * w, activation="tanh"),
    "gate of one": lambda x, y, w: xf.gated_residual(x, y, w[:1], activation="tanh"),
    "gate of elements": lambda x, y, w: xf.gated_residual(x, y, w * y, activation="sigmoid"),
    "activation": lambda x, y, w: y * xf.bias_activation(x, w),
    "gated": lambda x, y, w: y[..., :4] * xf.gated_activation(x, w),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_graph_for_all_lengths(name):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(CALLS[name], fullgraph=True, backend=counter)
    for length in (11, 23, 40, 41):
        inputs = tensors((3, length, 8), (3, length, 8), (8,), grad=True)
        results = [(out, *torch.autograd.grad(out.square().sum(), inputs)) for out in (
            call(*inputs) for call in (compiled, CALLS[name]))]  # fmt: skip
        assert all(torch.equal(got, expected) for got, expected in zip(*results, strict=True))
    assert counter.frame_count <= 2


@pytest.mark.parametrize("name", ["pre", "gate of one", "activation"])
def test_compiled_by_inductor(name):
    torch._dynamo.reset()
    inputs = tensors((3, 5, 8), (3, 5, 8), (8,), grad=True)
    results = []
    for call in (CALLS[name], torch.compile(CALLS[name], fullgraph=True)):
        out = call(*inputs)
        results.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_compiled_dropout_follows_torchs_seed():
    torch._dynamo.reset()

    def call(x):
        return xf.add_layer_norm(x, x, dropout_p=0.5)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    (x,) = tensors((30, 8))
    torch.manual_seed(1)
    first, second = compiled(x), compiled(x)
    torch.manual_seed(1)
    assert torch.equal(first, call(x))
    assert not torch.equal(first, second)


def test_export():
    class Model(torch.nn.Module):
        def forward(self, x, y, w):
            return xf.sandwich_layer_norm(x, y, w, next_norm=True)

    inputs = tensors((3, 5, 8), (3, 5, 8), (8,))
    length = torch.export.Dim("length", min=2, max=100)
    exported = torch.export.export(Model(), tuple(inputs), dynamic_shapes={"x": {1: length}, "y": {1: length}, "w": {}})
    longer = tensors((3, 9, 8), (3, 9, 8), (8,))
    for got, expected in zip(exported.module()(*longer), Model()(*longer), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("dims", [(0, 0, None), (0, None, None), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_vmap(name, dims):
    x, y, w = tensors((3, 4, 8), (3, 4, 8), (3, 8))
    inputs = [each if dim == 0 else each[0] for each, dim in zip((x, y, w), dims, strict=True)]

    def grad(*inputs):
        return torch.func.grad(lambda *each: CALLS[name](*each).square().sum(), argnums=(0, 1, 2))(*inputs)

    for mapped in (lambda *inputs: (CALLS[name](*inputs),), grad):
        got = torch.vmap(mapped, in_dims=dims)(*inputs)
        parts = [mapped(*(e if d is None else e[i] for e, d in zip(inputs, dims, strict=True))) for i in range(3)]
        for each, expected in zip(got, zip(*parts, strict=True), strict=True):
            torch.testing.assert_close(each, torch.stack(expected))


@pytest.mark.parametrize("name", CALLS)
def test_a_second_derivative_is_refused(name):
    x, y, w = tensors((4, 8), (4, 8), (8,), grad=True)
    (grad,) = torch.autograd.grad(x.square().sum() + CALLS[name](x, y, w).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivative only"):
        torch.autograd.grad(grad.square().sum(), x)


def test_the_function_of_vjp_outlives_the_transform():
    x, y, w = tensors((4, 8), (4, 8), (8,))
    for call in CALLS.values():
        out, vjp = torch.func.vjp(lambda x, call=call: call(x, y, w), x)
        expected = torch.func.grad(lambda x, call=call: call(x, y, w).sum())(x)
        torch.testing.assert_close(vjp(2 * torch.ones_like(out))[0], 2 * expected)


def test_a_traced_graph_holds_one_operator():
    x, y, w = tensors((3, 5, 8), (3, 5, 8), (8,))
    graph = make_fx(lambda x, y, w: xf.add_layer_norm(x, y, w))(x, y, w)
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert calls.count("xmkern.add_norm.default") == 1
    assert torch.equal(graph(2 * x, y, w), xf.add_layer_norm(2 * x, y, w))


def test_autocast_casts_nothing_and_dtypes_may_differ():
    x, y, w = tensors((3, 5, 8), (3, 5, 8), (8,), grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert xf.add_layer_norm(x, y, w).dtype == torch.float32
        projected = x @ torch.eye(8)
        assert projected.dtype == torch.bfloat16
        out, total = xf.add_layer_norm(projected, y, w, return_sum=True)
        assert out.dtype == total.dtype == torch.float32
        assert xf.bias_activation(projected, w).dtype == torch.bfloat16
    (out.sum() + total.sum()).backward()
    assert x.grad.dtype == y.grad.dtype == w.grad.dtype == torch.float32


def test_meta_tensors():
    x, y, w = (each.to("meta") for each in tensors((3, 5, 8), (3, 5, 8), (8,)))
    for call in CALLS.values():
        assert call(x.requires_grad_(), y, w).device.type == "meta"
