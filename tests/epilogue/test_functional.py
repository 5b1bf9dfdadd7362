"""What follows a projection against its reference and against torch, and the promises that a comparison of values does
not see."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings

import xmkern.functional as xf
from xmkern.ops.registry import ops
from xmkern.testing import assert_matches_reference, strategies, threads

CALLS = [
    "add_layer_norm",
    "add_rms_norm",
    "sandwich_layer_norm",
    "bias_dropout_add",
    "gated_residual",
    "bias_activation",
    "gated_activation",
]
OPERATORS = [f"{name}{way}" for name in ("add_norm", "gated_residual", "bias_activation") for way in ("", "_backward")]
ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
}


def tensors(*shapes, dtype=torch.float32, grad=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(grad) for shape in shapes]


def doubles(*shapes):
    return [x.detach().double().requires_grad_() for x in tensors(*shapes)]


def same(inputs, got, expected):
    """Values and gradients."""
    torch.testing.assert_close(got, expected)
    grads = [torch.autograd.grad(out.square().sum(), inputs, retain_graph=True) for out in (got, expected)]
    for each, other in zip(*grads, strict=True):
        torch.testing.assert_close(each, other)


@pytest.mark.parametrize("name", CALLS)
def test_kernels_match_the_reference(name, capability):
    @settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(getattr(strategies, name)())
    def check(inputs):
        assert_matches_reference(name, inputs, backend="cpu")

    check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_more_rows_than_one_block_has(dtype, capability):
    x, residual, weight, bias, linear_bias = tensors((9000, 96), (9000, 96), (96,), (96,), (96,), dtype=dtype)
    norm = {"x": x, "residual": residual, "weight": weight, "bias": bias, "linear_bias": linear_bias}
    assert_matches_reference("add_layer_norm", {**norm, "dropout_p": 0.1, "pb_relax": True}, "cpu")
    assert_matches_reference("sandwich_layer_norm", {**norm, "next_norm": True, "next_weight": bias}, "cpu")
    assert_matches_reference("gated_residual", {"x": x, "residual": residual, "gate": weight, "bias": bias}, "cpu")
    assert_matches_reference("gated_activation", {"x": x, "bias": bias}, "cpu")


class TestReference:
    """Against torch's own functions in float64, and against finite differences."""

    def test_post_norm(self):
        x, residual, weight, bias, linear_bias = inputs = doubles((3, 5, 7), (3, 5, 7), (7,), (7,), (7,))
        got = xf.add_layer_norm(x, residual, weight, bias, linear_bias=linear_bias, eps=0.1)
        same(inputs, got, F.layer_norm(residual + x + linear_bias, (7,), weight, bias, 0.1))

    def test_a_plain_norm(self):
        (x,) = doubles((3, 5, 7))
        same([x], xf.add_layer_norm(x), F.layer_norm(x, (7,)))

    def test_pre_norm(self):
        x, residual, weight, bias = inputs = doubles((3, 5, 7), (3, 5, 7), (7,), (7,))
        out, total = xf.add_layer_norm(x, residual, weight, bias, return_sum=True)
        same(inputs, out * total.exp(), F.layer_norm(residual + x, (7,), weight, bias) * (residual + x).exp())
        same(inputs[:2], total, residual + x)

    @pytest.mark.parametrize("pb_relax", [False, True])
    def test_sandwich(self, pb_relax):
        """As CogView writes it: each norm divides by its input's own greatest number."""
        x, residual, weight, bias, next_weight, next_bias = inputs = doubles((3, 5, 7), (3, 5, 7), *[(7,)] * 4)

        def norm(x, weight, bias):
            return F.layer_norm(x / (x.abs().max().detach() / 8) if pb_relax else x, (7,), weight, bias, 0.1)

        out, total = xf.sandwich_layer_norm(
            x, residual, weight, bias, eps=0.1, pb_relax=pb_relax, next_norm=True, next_weight=next_weight,
            next_bias=next_bias,
        )  # fmt: skip
        expected = residual + norm(x, weight, bias)
        same(inputs, out * total.exp(), norm(expected, next_weight, next_bias) * expected.exp())
        got = xf.sandwich_layer_norm(x, residual, weight, bias, eps=0.1, pb_relax=pb_relax)
        same(inputs[:4], got, expected)

    def test_rms_norm(self):
        x, residual, weight = inputs = doubles((3, 5, 7), (3, 5, 7), (7,))
        same(inputs, xf.add_rms_norm(x, residual, weight, eps=0.1), F.rms_norm(x + residual, (7,), weight, 0.1))

    def test_bias_dropout_add(self):
        x, residual, bias = inputs = doubles((3, 5, 7), (3, 5, 7), (7,))
        same(inputs, xf.bias_dropout_add(x, residual, bias), residual + x + bias)
        same(inputs[1:2], xf.bias_dropout_add(x, residual, bias, dropout_p=1.0), residual * 1)

    @pytest.mark.parametrize("activation", [None, "tanh", "sigmoid"])
    @pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5, 7)], ids=str)
    def test_gated_residual(self, shape, activation):
        x, residual, gate, bias = inputs = doubles((3, 5, 7), (3, 5, 7), shape, (7,))
        opened = gate if activation is None else getattr(torch, activation)(gate)
        got = xf.gated_residual(x, residual, gate, bias=bias, activation=activation)
        same(inputs, got, residual + opened * (x + bias))

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_activations(self, activation):
        x, bias = inputs = doubles((3, 5, 8), (8,))
        got = xf.bias_activation(x, bias, activation)
        same(inputs, got, ACTIVATIONS[activation](x + bias))
        value, gate = (x + bias).chunk(2, -1)
        got = xf.gated_activation(x, bias, activation)
        same(inputs, got, value * ACTIVATIONS[activation](gate))

    @pytest.mark.parametrize("name", ["add_layer_norm", "sandwich_layer_norm", "bias_dropout_add"])
    def test_gradients_through_dropout(self, name):
        def call(*inputs):
            torch.manual_seed(0)
            if name == "bias_dropout_add":
                return xf.bias_dropout_add(*inputs[:3], dropout_p=0.4)
            return getattr(xf, name)(*inputs[:4], linear_bias=inputs[4], dropout_p=0.4)

        vectors = 1 if name == "bias_dropout_add" else 3
        assert torch.autograd.gradcheck(call, doubles((3, 5, 7), (3, 5, 7), *[(7,)] * vectors))


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name):
    op = ops()[name]
    torch.manual_seed(0)
    torch.library.opcheck(op.overload, (*op.sample(), "auto"))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout(dtype, backend):
    """The share, the scale, the same elements in the backward, others with another seed, none at p = 1."""
    (x,) = tensors((200, 100), dtype=dtype)
    torch.manual_seed(0)
    results = [xf.add_layer_norm(x, dropout_p=0.3, return_sum=True, backend=backend)[1] for _ in range(2)]
    torch.manual_seed(0)
    again = xf.add_layer_norm(x, dropout_p=0.3, return_sum=True, backend=backend)[1]
    assert torch.equal(results[0], again)
    assert not torch.equal(*results)
    kept = again != 0
    assert abs(kept.float().mean() - 0.7) < 0.02
    torch.testing.assert_close(again[kept], (x / 0.7)[kept])
    (grad,) = torch.autograd.grad(again.sum(), x)
    torch.testing.assert_close(grad, kept.to(dtype) / 0.7)
    assert not xf.add_layer_norm(x, dropout_p=1.0, return_sum=True, backend=backend)[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_threads(dtype, capability):
    shapes = (7, 700, 96), (7, 700, 96), (96,), (96,), (96,), (7, 700, 96)
    x, residual, weight, bias, linear_bias, gate = inputs = tensors(*shapes, dtype=dtype)
    results = []
    for count in (1, 2, 3, 7):
        with threads(count):
            torch.manual_seed(0)
            branch = {"linear_bias": linear_bias, "dropout_p": 0.1, "pb_relax": True}
            outs = [
                xf.add_layer_norm(x, residual, weight, bias, **branch),
                *xf.sandwich_layer_norm(x, residual, weight, bias, **branch, next_norm=True),
                xf.gated_residual(x, residual, gate, bias=bias, activation="tanh"),
                xf.gated_residual(x, residual, weight, bias=bias),
                xf.bias_activation(x, bias),
                xf.gated_activation(x, bias),
            ]
            grads = torch.autograd.grad(sum(out.float().square().sum() for out in outs), inputs)
            results.append((*outs, *grads))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def kept_bytes(call):
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = call()
    (sum(out) if isinstance(out, tuple) else out).sum().backward()
    return sum(kept.values())


def test_what_is_kept_for_the_backward():
    """Inputs, or the sum that the caller gets, and two numbers a row and norm: no masks, no copies."""
    x, residual, weight, bias = tensors((30, 20, 64), (30, 20, 64), (64,), (64,))
    size, small = x.nbytes, 2 * weight.nbytes + 8 * 600 + 8
    norm = {"weight": weight, "bias": bias, "dropout_p": 0.1}
    assert kept_bytes(lambda: xf.add_layer_norm(x, residual, **norm)) <= 2 * size + small
    assert kept_bytes(lambda: xf.add_layer_norm(x, residual, **norm, return_sum=True)) <= size + small
    assert kept_bytes(lambda: xf.sandwich_layer_norm(x, residual, **norm)) <= 2 * size + small
    assert kept_bytes(lambda: xf.gated_residual(x, residual, weight, bias=bias, activation="tanh")) <= size + small
    assert kept_bytes(lambda: xf.bias_activation(x, bias)) <= size + small
    assert kept_bytes(lambda: xf.gated_activation(x, bias)) <= size + small
    assert kept_bytes(lambda: xf.bias_dropout_add(x, residual, bias, dropout_p=0.1)) <= small


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_no_rows(backend):
    x, residual, gate, weight, bias = inputs = tensors((3, 0, 8), (3, 0, 8), (3, 0, 8), (8,), (8,))
    outs = [
        *xf.sandwich_layer_norm(x, residual, weight, bias, pb_relax=True, next_norm=True, backend=backend),
        xf.gated_residual(x, residual, gate, bias=bias, backend=backend),
        xf.bias_activation(x, bias, backend=backend),
    ]
    for out in outs:
        assert out.shape == (3, 0, 8)
    assert xf.gated_activation(x, bias, backend=backend).shape == (3, 0, 4)
    sum(out.sum() for out in outs).backward()
    assert all(each.grad.shape == each.shape and not each.grad.any() for each in inputs)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("pb_relax", [False, True])
def test_a_row_without_deviation_gives_the_bias(pb_relax, backend):
    x, bias = torch.full((4, 9), 0.0, requires_grad=True), torch.arange(9.0)
    out = xf.add_layer_norm(x, bias=bias, eps=0.0, pb_relax=pb_relax, backend=backend)
    assert torch.equal(out, bias.expand(4, 9))
    assert not torch.autograd.grad(out.sum(), x)[0].any()


@pytest.mark.parametrize("D", [768, 4096])
def test_a_small_deviation_beside_a_large_mean(D, capability):
    generator = torch.Generator().manual_seed(0)
    means = 1 + torch.rand(300, 1, generator=generator)
    for x in (means.expand(300, D), 100 * means + 0.1 * torch.randn(300, D, generator=generator)):
        assert_matches_reference("add_layer_norm", {"x": x}, backend="cpu")


def test_nan_and_infinity_are_kept_where_they_belong(capability):
    x, residual, weight = tensors((40, 33), (40, 33), (33,), grad=False)
    x[3, 5], x[7, 32] = torch.nan, torch.inf
    wrong = torch.zeros(40, dtype=torch.bool)
    wrong[[3, 7]] = True
    out = xf.add_layer_norm(x, residual, weight)
    assert torch.equal(out.isnan().all(1), wrong)
    assert torch.equal(out.isnan().any(1), wrong)
    for out in (xf.gated_residual(x, residual, weight), *(xf.bias_activation(x, None, a) for a in ACTIVATIONS)):
        assert torch.equal(out.isnan(), x.isnan())
        assert torch.equal(out.isinf(), x.isinf())
    relaxed = xf.add_layer_norm(x[:7], residual[:7], weight, pb_relax=True)
    assert torch.equal(relaxed.isnan().any(1), wrong[:7])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_far_out(activation, capability):
    """Twice eager's error at every place, not only beside the greatest value; tails keep their relative accuracy."""
    x = torch.cat([torch.linspace(-30, 30, 20001), torch.logspace(-30, 4, 500), -torch.logspace(-30, 4, 500)])
    x.requires_grad_()
    wide = x.detach().double().requires_grad_()
    outs = [xf.bias_activation(x, None, activation), ACTIVATIONS[activation](x), ACTIVATIONS[activation](wide)]
    slopes = [torch.autograd.grad(out.sum(), of)[0] for out, of in zip(outs, (x, x, wide), strict=True)]
    for got, eager, exact in (outs, slopes):
        allowed = 2 * (eager - exact).abs() + 4e-7 * exact.abs() + 1e-7 * wide.abs().clamp(max=1) + 1e-37
        worst = ((got - exact).abs() - allowed).argmax()
        assert (got - exact).abs()[worst] <= allowed[worst], (x[worst], got[worst], eager[worst], exact[worst])
    if activation == "gelu":
        tail = (wide < -3) & (wide > -11)
        exact = 0.5 * wide * torch.erfc(-wide * 0.5**0.5)
        assert ((outs[0] - exact) / exact)[tail].abs().max() < 1e-5


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_of_what_is_filled_in(activation, capability):
    """finfo.min and the like, for which the last power that a sigmoid has would still be a large number."""
    x = torch.tensor([torch.finfo(torch.float32).min, -1e30, -1e15, -1e4, 1e4, 1e15]).requires_grad_()
    outs = xf.bias_activation(x, None, activation), ACTIVATIONS[activation](x)
    slopes = [torch.autograd.grad(out.sum(), x)[0] for out in outs]
    torch.testing.assert_close(*outs)
    torch.testing.assert_close(slopes[0][2:], slopes[1][2:])  # eager's gradient of gelu_tanh is NaN beyond
    assert not slopes[0][:2].any()


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradient_of_a_residual_that_is_wider_than_x(backend):
    """Its bits beyond those of x are not lost."""
    x, residual, weight, bias = tensors((8, 256), (8, 256), (256,), (256,))
    x = x.detach().bfloat16().requires_grad_()
    grad = torch.randn(8, 256)
    out = xf.add_layer_norm(x, residual, weight, bias, backend=backend)
    wide = residual.detach().double().requires_grad_()
    total = x.detach().double() + wide
    exact = torch.nn.functional.layer_norm(total, (256,), weight.double(), bias.double())
    (want,) = torch.autograd.grad(exact, wide, grad.double())
    (got,) = torch.autograd.grad(out, residual, grad)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("call", [xf.bias_dropout_add, xf.sandwich_layer_norm])
def test_the_sum_may_be_changed_in_place(call):
    x, residual = tensors((6, 32), (6, 32))
    out = call(x, residual)
    wanted = torch.autograd.grad(out.square().sum(), (x, residual), retain_graph=True)
    out += 0
    found = torch.autograd.grad(out.square().sum(), (x, residual))
    for got, want in zip(found, wanted, strict=True):
        assert torch.equal(got, want)


def test_gradients_of_frozen_parameters_are_none():
    x, residual = tensors((4, 8), (4, 8))
    weight, bias = tensors((8,), (8,), grad=False)
    xf.add_layer_norm(x, residual.detach(), weight, bias, dropout_p=0.2).sum().backward()
    assert x.grad is not None
    assert residual.grad is weight.grad is None
