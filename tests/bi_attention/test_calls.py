"""The calls of co-attention: errors by name, autocast, torch.compile, torch.func."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

import xmkern.functional as xf

A, Q = torch.randn(2, 3, 9, 8), torch.randn(2, 3, 5, 8)
V_A, V_Q = torch.randn(2, 3, 9, 6), torch.randn(2, 3, 5, 10)
MASK = torch.rand(2, 9) < 0.8


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        (([1.0], Q, V_A, V_Q), {}, TypeError, "a must be a tensor, not list"),
        (
            (A[0, 0], Q, V_A, V_Q),
            {},
            ValueError,
            r"a must have the axes \[B, H, L, D\] or \[B, L, D\], not .* \[9, 8\]",
        ),
        ((A, Q[0], V_A, V_Q), {}, ValueError, r"b must be of shape \[2, 3, 'S', 8\] beside a of .*, not \[3, 5, 8\]"),
        ((A, Q[..., :4], V_A, V_Q), {}, ValueError, r"b must be of shape \[2, 3, 'S', 8\]"),
        ((A, Q, V_Q, V_Q), {}, ValueError, r"v_a must be of shape \[2, 3, 9, 'Da'\], not \[2, 3, 5, 10\]"),
        ((A, Q, V_A, V_A), {}, ValueError, r"v_b must be of shape \[2, 3, 5, 'Db'\]"),
        ((A[..., :0], Q[..., :0], V_A, V_Q), {}, ValueError, r"a must have the axes .* not shape \[2, 3, 9, 0\]"),
        ((A, Q, V_A.double(), V_Q), {}, TypeError, "of one dtype, .* not torch.float32, torch.float32, torch.float64"),
        ((A, Q, V_A.to("meta"), V_Q), {}, ValueError, "v_a must be on cpu as a is, not on meta"),
        ((A, Q, V_A, V_Q), {"affinity": "cosine"}, ValueError, "affinity must be 'dot' or 'tanh', not 'cosine'"),
        ((A, Q, V_A, V_Q), {"normalize": "l2"}, ValueError, "normalize must be 'softmax' or None, not 'l2'"),
        ((A, Q, V_A, V_Q), {"scale": torch.ones(1)}, TypeError, "scale must be a number, not a tensor"),
        ((A, Q, V_A, V_Q), {"mask_a": [9, 3]}, TypeError, "mask_a must be a tensor, not list"),
        ((A, Q, V_A, V_Q), {"mask_a": MASK.float()}, TypeError, "mask_a must be bool or of integers"),
        ((A, Q, V_A, V_Q), {"mask_b": MASK}, ValueError, r"mask_b must be bool of shape \[2, 5\] or integers of"),
        ((A, Q, V_A, V_Q), {"mask_b": torch.ones(3).long()}, ValueError, r"integers of shape \[2\], not \[3\]"),
        ((A, Q, V_A, V_Q), {"mask_b": MASK.to("meta")}, ValueError, "mask_b must be on cpu"),
    ],
)
def test_errors_name_the_argument(args, options, error, message):
    with pytest.raises(error, match=message):
        xf.bi_attention(*args, **options)


def pooled_inputs(dtype=torch.float32):
    a, b, hidden_a, hidden_b = torch.randn(2, 4, 8), torch.randn(2, 6, 8), torch.randn(2, 4, 5), torch.randn(2, 6, 5)
    return [x.to(dtype) for x in (a, b, a, b, hidden_a, hidden_b, torch.randn(5), torch.randn(5))]


@pytest.mark.parametrize(
    ("place", "value", "error", "message"),
    [
        (0, None, TypeError, "^a must be a tensor, not NoneType"),
        (1, torch.randn(6, 8), ValueError, r"^b must have three axes, the last of at least 1, not shape \[6, 8\]"),
        (2, torch.randn(2, 5, 8), ValueError, r"affinity_a must have the axes \[B, L, D\] = \[2, 4, 8\], not"),
        (3, torch.randn(2, 6, 7), ValueError, r"affinity_b must have the axes \[B, S, D\] = \[2, 6, 8\], not"),
        (5, torch.randn(2, 6, 4), ValueError, r"hidden_b must have the axes \[B, S, K\] = \[2, 6, 5\], not"),
        (6, torch.randn(4), ValueError, r"weight_a must have the axes \[K\] = \[5\], not \[4\]"),
        (7, torch.randn(5).double(), TypeError, "weight_b must be of a's dtype, .* not torch.float64 beside"),
    ],
)
def test_errors_of_parallel_co_attention(place, value, error, message):
    args = pooled_inputs()
    args[place] = value
    with pytest.raises(error, match=message):
        xf.parallel_co_attention(*args)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("hidden", [torch.randn(2, 4, 5)], ValueError, "hidden must be 3 tensors, not 1"),
        ("guides", [torch.randn(5, 8), torch.randn(8, 5)], ValueError, r"guides\[1\] must have the axes \[K, Db\]"),
        ("weights", [torch.randn(5)] * 2 + [1.0], TypeError, r"weights\[2\] must be a tensor, not float"),
        ("mask_a", torch.tensor([1]), ValueError, r"mask_a must be bool of shape \[2, 4\]"),
    ],
)
def test_errors_of_alternating_co_attention(name, value, error, message):
    a, b, _, _, hidden_a, hidden_b, weight, _ = pooled_inputs()
    args = {"hidden": [hidden_a, hidden_b, hidden_a], "guides": [torch.randn(5, 8)] * 2, "weights": [weight] * 3}
    xf.alternating_co_attention(a, b, **args)
    with pytest.raises(error, match=message):
        xf.alternating_co_attention(a, b, **{**args, name: value})


def test_backends_by_name():
    with pytest.raises(ValueError, match="the kernels take float32, bfloat16 and float16, not"):
        xf.bi_attention(*(x.double() for x in (A, Q, V_A, V_Q)), backend="cpu")
    with pytest.raises(ValueError, match="backend must be 'auto' or one of 'cpu'"):
        xf.bi_attention(A, Q, V_A, V_Q, backend="gpu")


def test_autocast():
    narrow = [x.bfloat16() for x in (A, Q, V_A, V_Q)]
    pooled = pooled_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        got = xf.bi_attention(A, Q, V_A, V_Q), xf.parallel_co_attention(*pooled)
    assert got[0][0].dtype == got[1].a.dtype == torch.bfloat16
    assert got[1].weights_a.dtype == torch.float32
    assert all(map(torch.equal, got[0], xf.bi_attention(*narrow)))
    assert all(map(torch.equal, got[1], xf.parallel_co_attention(*(x.bfloat16() for x in pooled))))


def loss(a, b, v_a, v_b, mask=None):
    outs = xf.bi_attention(a, b, v_a, v_b, mask_a=mask, mask_b=None)
    return sum(out.cos().sum() for out in outs)


def tanh_loss(*args):
    pooled = xf.parallel_co_attention(*args)
    return sum(x.cos().sum() for x in pooled)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("call", [loss, tanh_loss])
def test_gradients_of_a_compiled_call(call, backend):
    torch._dynamo.reset()
    inputs = [A, Q, V_A, V_Q] if call is loss else pooled_inputs()
    leaves = [x.clone().requires_grad_() for x in inputs]
    masks = [torch.tensor([9, 2])] if call is loss else []
    results = []
    for each in (call, torch.compile(call, fullgraph=True, backend=backend)):
        out = each(*leaves, *masks)
        results.append((out, *torch.autograd.grad(out, leaves)))
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected)


def test_one_tensor_as_key_and_value_compiles():
    torch._dynamo.reset()
    a, b = A.clone().requires_grad_(), Q.clone().requires_grad_()
    out = torch.compile(loss, fullgraph=True, backend="aot_eager")(a, b, a, b)
    for got, expected in zip(*(torch.autograd.grad(x, (a, b)) for x in (out, loss(a, b, a, b))), strict=True):
        assert_close(got, expected)


def test_one_graph_for_all_sizes():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    counts = []
    compiled = torch.compile(loss, fullgraph=True, backend=counter, dynamic=True)
    for B, L in ((2, 9), (4, 7), (6, 11)):
        inputs = [torch.randn(B, 3, n, 8) for n in (L, 5, L, 5)]
        assert_close(compiled(*inputs), loss(*inputs))
        counts.append(counter.frame_count)
    assert counts[0] == counts[-1]


@pytest.mark.parametrize("call", [loss, tanh_loss])
def test_grad_of_torch_func(call):
    inputs = [A, Q, V_A, V_Q] if call is loss else pooled_inputs()
    got = torch.func.grad(call, argnums=tuple(range(len(inputs))))(*inputs)
    leaves = [x.clone().requires_grad_() for x in inputs]
    for x, y in zip(got, torch.autograd.grad(call(*leaves), leaves), strict=True):
        assert_close(x, y)


@pytest.mark.parametrize("call", [loss, tanh_loss])
def test_vmap(call):
    inputs = [A, Q, V_A, V_Q] if call is loss else pooled_inputs()
    several = [torch.stack([x, -x, x / 2]) for x in inputs]
    for each in (call, torch.func.grad(call)):
        got = torch.vmap(each)(*several)
        assert_close(got, torch.stack([each(*x) for x in zip(*several, strict=True)]))


def test_a_second_derivative_is_refused():
    for call, inputs in ((loss, [A, Q, V_A, V_Q]), (tanh_loss, pooled_inputs())):
        first = inputs[0].clone().requires_grad_()
        (grad,) = torch.autograd.grad(call(first, *inputs[1:]), first, create_graph=True)
        with pytest.raises(NotImplementedError, match="first derivative only"):
            grad.square().sum().backward()


def test_meta_tensors_have_shapes():
    out_a, out_b = xf.bi_attention(*(x.to("meta") for x in (A, Q, V_A, V_Q)))
    assert (out_a.shape, out_b.shape) == ((2, 3, 9, 10), (2, 3, 5, 6))
    pooled = xf.parallel_co_attention(*(x.to("meta") for x in pooled_inputs()))
    assert [x.shape for x in pooled] == [(2, 8), (2, 8), (2, 4), (2, 6)]
