"""Late interaction under torch.compile, torch.func, make_fx, checkpointing and autocast."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import xmkern.functional as xf


def tensors(*shapes, dtype=torch.float32, grad=False):
    torch.manual_seed(0)
    return [torch.randn(shape).to(dtype).requires_grad_(grad) for shape in shapes]


def scores(x, y, mask):
    return sum(each.square().sum() for each in xf.max_similarity(x, y, y_mask=mask, both=True))


def loss(x, y, mask):
    return xf.late_interaction_info_nce(x, y, 3.0, y_mask=mask, label_smoothing=0.1, recompute=False)


def lean_loss(x, y, mask):
    return xf.late_interaction_info_nce(x, y, 3.0, y_mask=mask, normalize=True, recompute=True)


CALLS = [scores, loss, lean_loss]


@pytest.mark.parametrize("call", CALLS)
def test_one_graph_for_all_lengths(call):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call, fullgraph=True, backend=counter)
    for length in (11, 23, 40, 41):
        x, y = tensors((4, length, 8), (4, length + 2, 8), grad=True)
        mask = torch.rand(4, length + 2) < 0.7
        results = [(out, *torch.autograd.grad(out, (x, y))) for out in (each(x, y, mask) for each in (compiled, call))]
        assert all(torch.equal(got, expected) for got, expected in zip(*results, strict=True))
    assert counter.frame_count <= 2


def test_compiled_by_inductor():
    torch._dynamo.reset()
    x, y = tensors((4, 5, 8), (4, 7, 8), grad=True)
    mask = torch.rand(4, 7) < 0.7
    compiled = torch.compile(loss, fullgraph=True)
    for got, expected in zip(*((out, *torch.autograd.grad(out, (x, y))) for out in (
        each(x, y, mask) for each in (compiled, loss))), strict=True):  # fmt: skip
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dims", [(0, 0, 0), (0, None, None), (None, 0, 0), (None, None, 0)])
@pytest.mark.parametrize("call", CALLS)
def test_vmap(call, dims):
    x, y = tensors((3, 4, 5, 8), (3, 4, 7, 8))
    mask = torch.rand(3, 4, 7) < 0.7
    inputs = [each if dim == 0 else each[0] for each, dim in zip((x, y, mask), dims, strict=True)]

    def grad(*inputs):
        return torch.func.grad(call, argnums=(0, 1))(*inputs)

    for mapped in (lambda *inputs: (call(*inputs),), grad):
        got = torch.vmap(mapped, in_dims=dims)(*inputs)
        parts = [mapped(*(e if d is None else e[i] for e, d in zip(inputs, dims, strict=True))) for i in range(3)]
        for each, expected in zip(got, zip(*parts, strict=True), strict=True):
            torch.testing.assert_close(each, torch.stack(expected))


def penalty_of_autograd(call, x):
    return torch.autograd.grad(torch.autograd.grad(call(x), x, create_graph=True)[0].square().sum(), x)


def penalty_of_torch_func(call, x):
    return torch.func.grad(lambda x: torch.func.grad(call)(x).square().sum())(x)


@pytest.mark.parametrize("penalty", [penalty_of_autograd, penalty_of_torch_func])
@pytest.mark.parametrize("call", CALLS)
def test_a_second_derivative_is_refused(call, penalty):
    (x,) = tensors((3, 5, 8), grad=True)
    with pytest.raises(NotImplementedError, match="first derivative only"):
        penalty(lambda x: x.square().sum() + call(x, x, None), x)


def test_the_function_of_vjp_outlives_the_transform():
    x, y = tensors((3, 5, 8), (3, 4, 8))
    for call in CALLS:
        _, vjp = torch.func.vjp(lambda x, call=call: call(x, y, None), x)
        torch.testing.assert_close(vjp(torch.tensor(2.0))[0], 2 * torch.func.grad(call)(x, y, None))


@pytest.mark.parametrize("call", CALLS)
def test_checkpointing_changes_nothing(call):
    x, y = tensors((3, 5, 8), (3, 6, 8), grad=True)
    mask = torch.rand(3, 6) < 0.7
    results = []
    for out in (call(x, y, mask), checkpoint(call, x, y, mask, use_reentrant=False)):
        results.append((out, *torch.autograd.grad(out, (x, y))))
    assert all(torch.equal(got, expected) for got, expected in zip(*results, strict=True))


def test_a_traced_graph_holds_one_operator():
    x, y = tensors((3, 5, 8), (4, 6, 8))
    graph = make_fx(lambda x, y: xf.max_similarity(x, y))(x, y)
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert calls.count("xmkern.max_similarity.default") == 1
    assert torch.equal(graph(2 * x, y), xf.max_similarity(2 * x, y))


@pytest.mark.parametrize("call", CALLS)
def test_autocast_casts_as_a_product_is_cast(call):
    x, y = tensors((3, 5, 8), (3, 6, 8), grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = call(x, y, None)
    assert out.dtype == torch.float32
    assert not torch.equal(out, call(x, y, None))
    if call is not lean_loss:
        assert torch.equal(out, call(x.bfloat16(), y.bfloat16(), None))
    out.backward()
    assert x.grad.dtype == y.grad.dtype == torch.float32
