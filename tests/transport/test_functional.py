"""Alignment by optimal transport against its reference, and what a plan must be."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch.nn.functional import normalize
from torch.testing import assert_close

import xmkern.functional as xf
from xmkern.ops.registry import ops
from xmkern.ops.transport import transport_plan
from xmkern.testing import assert_matches_reference, strategies, threads


def tokens(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def test_the_kernel_matches_the_reference(capability):
    @settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(strategies.optimal_transport_alignment())
    def check(inputs):
        assert_matches_reference("optimal_transport_alignment", inputs, backend="cpu")

    check()


def uniter(x, y, x_pad, y_pad, beta, iterations, inner):
    """As the formulas of UNITER's code have it, with 10,000 added to what the padding divides by."""
    cost = (1 - normalize(x, dim=2) @ normalize(y, dim=2).mT).masked_fill(x_pad[:, :, None] | y_pad[:, None], 0)
    n, m = ((~pad).sum(1).to(x)[:, None, None] for pad in (x_pad, y_pad))
    hidden = (x_pad[:, :, None] | y_pad[:, None]).mT
    kernel = (-cost.detach().mT / beta).exp().masked_fill(hidden, 0)
    plan, sigma = torch.ones_like(kernel).masked_fill(hidden, 0), (~x_pad).to(x)[:, :, None] / n
    for _ in range(iterations):
        product = kernel * plan
        for _ in range(inner):
            delta = 1 / (m * (product @ sigma).mT + 1e4 * y_pad[:, None])
            sigma = 1 / (n * (delta @ product) + 1e4 * x_pad[:, None]).mT
        plan = delta.mT * product * sigma.mT
    return torch.einsum("brt,btr->b", cost, plan), plan.mT


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("options", [(0.5, 50, 1), (0.2, 3, 4)])
def test_the_distance_is_uniters(options, backend):
    x, y = tokens(3, 7, 12), tokens(3, 20, 12, seed=1)
    x_pad = torch.arange(7) >= torch.tensor([[7], [3], [1]])
    y_pad = torch.arange(20) >= torch.tensor([[9], [20], [2]])
    beta, iterations, inner = options
    got = xf.optimal_transport_alignment(
        x, y, ~x_pad, ~y_pad, beta=beta, iterations=iterations, inner=inner, return_plan=True, backend=backend
    )
    expected = uniter(x.double(), y.double(), x_pad, y_pad, *options)
    grads = [torch.autograd.grad(parts[0].square().sum(), (x, y)) for parts in (got, expected)]
    for ours, theirs in zip((*got, *grads[0]), (*expected, *grads[1]), strict=True):
        assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-6)


def test_a_plan_moves_everything_everywhere(capability):
    x, y = tokens(3, 15, 12), tokens(3, 20, 12, seed=1)
    x_mask = torch.arange(15) < torch.tensor([[15], [4], [1]])
    y_mask = torch.arange(20) < torch.tensor([[20], [7], [20]])
    _, plan = xf.optimal_transport_alignment(x, y, x_mask, y_mask, iterations=300, return_plan=True)
    assert (plan >= 0).all()
    for sums, mask in ((plan.sum(2), x_mask), (plan.sum(1), y_mask)):
        assert_close(sums, mask / mask.sum(1, keepdim=True), rtol=0, atol=1e-4)


def test_the_distance_is_symmetric(capability):
    """In the limit; a few iterations end with the side of x."""
    x, y = tokens(4, 6, 12), tokens(4, 9, 12, seed=1)
    ours, plan = xf.optimal_transport_alignment(x, y, iterations=1000, return_plan=True)
    theirs, mirrored = xf.optimal_transport_alignment(y, x, iterations=1000, return_plan=True)
    assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert_close(plan, mirrored.mT, rtol=0, atol=1e-3)


def test_a_permutation_is_found(capability):
    """Tokens onto the same tokens in another order cost nothing, and the plan is the order."""
    x, order = tokens(1, 8, 40), torch.tensor([3, 1, 0, 7, 5, 2, 6, 4])
    distance, plan = xf.optimal_transport_alignment(x, x[:, order], return_plan=True)
    assert distance.item() < 1e-4
    assert torch.equal(plan[0].argmax(0), order)


def test_gradients_go_through_the_costs():
    """Against finite differences in float64, with the plan of the middle."""
    x, y = tokens(2, 4, 5, dtype=torch.float64), tokens(2, 3, 5, dtype=torch.float64, seed=1)
    _, plan = xf.optimal_transport_alignment(x, y, return_plan=True)

    def cost(x, y):
        return ((1 - normalize(x, dim=2) @ normalize(y, dim=2).mT) * plan).sum((1, 2))

    assert not plan.requires_grad
    assert torch.autograd.gradcheck(cost, (x, y))
    got = torch.autograd.grad(xf.optimal_transport_alignment(x, y).sum(), (x, y))
    for ours, theirs in zip(got, torch.autograd.grad(cost(x, y).sum(), (x, y)), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (0, 0)])
def test_a_side_of_no_tokens(sizes, backend):
    R, T = sizes
    for x, y, masks in (
        (tokens(2, R, 8), tokens(2, T, 8), ()),
        (tokens(2, 5, 8), tokens(2, 5, 8), (torch.arange(5).expand(2, -1) < R, torch.arange(5).expand(2, -1) < T)),
    ):
        distance, plan = xf.optimal_transport_alignment(x, y, *masks, return_plan=True, backend=backend)
        distance.sum().backward()
        assert (distance == 0).all()
        assert (plan == 0).all()
        assert (x.grad == 0).all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_small_beta_underflows_to_nothing(backend):
    x, y = tokens(2, 9, 8), tokens(2, 30, 8, seed=1)
    distance, plan = xf.optimal_transport_alignment(x, y, beta=1e-3, return_plan=True, backend=backend)
    assert distance.isfinite().all()
    assert (plan.sum((1, 2)) <= 1 + 1e-5).all()


def test_nan_is_kept_where_it_belongs(capability):
    x, y = tokens(3, 5, 8).detach(), tokens(3, 6, 8, seed=1).detach()
    x[1, 2, 0] = torch.nan
    distance = xf.optimal_transport_alignment(x, y, backend="cpu")
    assert distance.isnan().tolist() == [False, True, False]


def test_results_do_not_depend_on_threads(capability):
    cost = torch.rand(20, 33, 50, generator=torch.Generator().manual_seed(0))
    masks = torch.ones(20, 33, dtype=torch.bool), torch.ones(20, 50, dtype=torch.bool)
    results = []
    for count in (1, 2, 3, 7):
        with threads(count):
            results.append(transport_plan(cost, *masks, 0.5, 50, 1, backend="cpu"))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_costs_of_any_strides(capability):
    wide = torch.rand(6, 20, 40)
    masks = torch.rand(3, 10) < 0.8, torch.rand(3, 16) < 0.8
    for cost in (wide[::2, 3:13, 5:21], wide[::2, 3:19, 5:15].mT, wide[:1, :10, :16].expand(3, -1, -1)):
        got = transport_plan(cost, *masks, 0.5, 20, 1, backend="cpu")
        assert torch.equal(got, transport_plan(cost.contiguous(), *masks, 0.5, 20, 1, backend="cpu"))


def test_opcheck():
    op = ops()["transport_plan"]
    torch.manual_seed(0)
    torch.library.opcheck(op.overload, (*op.sample(), "auto"))


def loss(x, y, mask):
    return xf.optimal_transport_alignment(x, y, mask).square().sum()


def test_compiled_and_transformed():
    torch._dynamo.reset()
    x, y, mask = tokens(3, 5, 8), tokens(3, 6, 8, seed=1), torch.rand(3, 5) < 0.8
    expected = torch.autograd.grad(loss(x, y, mask), (x, y))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_close(torch.autograd.grad(compiled(x, y, mask), (x, y)), expected)
    assert_close(torch.func.grad(loss, argnums=(0, 1))(x.detach(), y.detach(), mask), expected)
    several = torch.stack([x.detach(), -x.detach()])
    got = torch.vmap(torch.func.grad(loss), in_dims=(0, None, None))(several, y.detach(), mask)
    assert_close(got, torch.stack([torch.func.grad(loss)(each, y.detach(), mask) for each in several]))


def test_halves_are_transported_in_float32_even_under_autocast():
    x, y = tokens(3, 5, 8, dtype=torch.bfloat16), tokens(3, 6, 8, dtype=torch.bfloat16, seed=1)
    expected = xf.optimal_transport_alignment(x.float(), y.float())
    with torch.autocast("cpu", torch.bfloat16):
        got = xf.optimal_transport_alignment(x, y)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)
    got.sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_meta_tensors_have_shapes():
    distance, plan = xf.optimal_transport_alignment(
        torch.empty(3, 5, 8, device="meta"), torch.empty(3, 6, 8, device="meta"), return_plan=True
    )
    assert distance.shape == (3,)
    assert plan.shape == (3, 5, 6)


X, Y = tokens(3, 5, 8).detach(), tokens(3, 6, 8).detach()


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((X.numpy(), Y), {}, TypeError, "x_tokens must be a tensor, not ndarray"),
        ((X, Y[0]), {}, ValueError, r"y_tokens must have three axes, \[B, T, D\], not shape \[6, 8\]"),
        ((X.int(), Y), {}, TypeError, "x_tokens must be of floating point, not torch.int32"),
        ((X, Y[:2]), {}, ValueError, r"y_tokens must have the axes .* B = 3 and D = 8 .* not \[2, 6, 8\]"),
        ((X, Y.to("meta")), {}, ValueError, "y_tokens must be on cpu as x_tokens is, not on meta"),
        ((X, Y, torch.ones(3, 5)), {}, TypeError, "x_mask must be a bool tensor, not torch.float32"),
        ((X, Y, None, torch.ones(3, 5) > 0), {}, ValueError, r"y_mask must be of shape \[3, 6\], not \[3, 5\]"),
        ((X, Y), {"beta": 0.0}, ValueError, "beta must be greater than 0, not 0.0"),
        ((X, Y), {"iterations": 0}, ValueError, "iterations must be at least 1, not 0"),
        ((X, Y), {"inner": 0}, ValueError, "inner must be at least 1, not 0"),
        ((X.double(), Y.double()), {"backend": "cpu"}, ValueError, "takes float32, not torch.float64"),
    ],
)
def test_errors_name_the_argument(args, options, error, message):
    with pytest.raises(error, match=message):
        xf.optimal_transport_alignment(*args, **options)
