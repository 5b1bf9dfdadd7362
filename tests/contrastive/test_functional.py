"""The contrastive losses against matrices that are written out, and their operators against the reference."""

from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import xmkern.functional as xf
from tests.contrastive import dense
from xmkern.ops.contrastive import op, reduce_similarities, reference
from xmkern.ops.registry import ops
from xmkern.testing import assert_matches_reference, strategies
from xmkern.testing.compare import differences, in_float64

CALLS = (
    "info_nce", "multi_positive_info_nce", "mil_nce", "sigmoid_contrastive", "distillation", "ranking_loss",
    "hash_likelihood", "cosine_max_margin",
)  # fmt: skip
needs_kernels = pytest.mark.skipif("cpu" not in op.LAUNCHERS, reason="no kernels for the CPU")
unhurried = {"suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


@pytest.mark.parametrize("name", CALLS)
def test_the_formulas(name):
    """In float64, values and gradients, against the matrix written out."""

    @settings(max_examples=250, **unhurried)
    @given(getattr(strategies, name)())
    def check(inputs):
        inputs = in_float64(inputs)
        for scalar in ("logit_scale", "logit_bias", "teacher_scale"):
            if isinstance(inputs.get(scalar), torch.Tensor):
                inputs[scalar].requires_grad_()
        leaves = {
            key: value for key, value in inputs.items() if isinstance(value, torch.Tensor) and value.requires_grad
        }
        found = []
        for call in (partial(getattr(xf, name), backend="reference"), getattr(dense, name)):
            outputs = call(**inputs)
            outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
            graded = [out for out in outputs if out.requires_grad]
            if leaves and graded:
                generator = torch.Generator().manual_seed(0)
                drawn = [torch.randn(out.shape, generator=generator, dtype=out.dtype) for out in graded]
                drawn = [torch.where(out.isfinite(), each, 0) for out, each in zip(graded, drawn, strict=True)]
                outputs += torch.autograd.grad(graded, list(leaves.values()), drawn, materialize_grads=True)
            found.append(outputs)
        for got, expected in zip(*found, strict=True):
            torch.testing.assert_close(got, expected)

    check()


@needs_kernels
@pytest.mark.parametrize("name", CALLS)
def test_kernels_match_the_matrix_written_out(name, capability):
    """And so the reference that they are compared with elsewhere does, in every dtype."""

    @settings(max_examples=40, **unhurried)
    @given(getattr(strategies, name)())
    def check(inputs):
        call = partial(getattr(xf, name), backend="cpu")
        assert_matches_reference(call, inputs, reference=getattr(dense, name))

    check()


@needs_kernels
@pytest.mark.parametrize("kind", reference.KINDS)
def test_kernels_match_the_reference(kind, capability):
    """The operators themselves: all sorts of pairs, and any gradient of any result."""

    @settings(max_examples=60, **unhurried)
    @given(strategies.reduce_similarities(kind))
    def check(inputs):
        tested, expected = (partial(reduce_similarities, kind=kind, backend=name) for name in ("cpu", "reference"))
        assert_matches_reference(tested, inputs, reference=expected)

    check()


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["info_nce", "sigmoid_contrastive"])
def test_gradients_of_scale_and_bias(name, dtype, capability):
    """Sums over all pairs, in which either sign meets the other: within eight units of the parts' magnitudes."""
    x, y = (torch.randn(150, 40, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in range(2))
    scale, bias = torch.tensor(0.8, requires_grad=True), torch.tensor(-1.0, requires_grad=True)
    more = {"return_lse": True} if name == "info_nce" else {}
    out = getattr(xf, name)(x, y, scale, logit_bias=bias, backend="cpu", **more)
    total = sum(part.sum() for part in out) if more else out
    z = dense.logits(x.double(), y.double(), scale.double(), bias.double()).detach().requires_grad_()
    if name == "info_nce":
        own = torch.arange(150)
        both = sum(torch.nn.functional.cross_entropy(each, own) for each in (z, z.mT)) / 2
        exact = both + z.logsumexp(1).sum() + z.logsumexp(0).sum()
    else:
        sign = torch.eye(150) * 2 - 1
        exact = -torch.nn.functional.logsigmoid(sign * z).sum() / 150
    (slopes,) = torch.autograd.grad(exact, z)
    products = x.double() @ y.double().mT
    for got, parts in zip(torch.autograd.grad(total, (scale, bias)), (slopes * products, slopes), strict=True):
        assert abs(got - parts.sum()) <= 8 * torch.finfo(torch.float32).eps * parts.abs().sum()


@needs_kernels
@pytest.mark.parametrize("shape", [(150, 270, 40), (401, 70, 33), (310, 530, 530)])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["logsumexp", "softplus"])
def test_loss_and_gradients_in_one_go(kind, dtype, columns, shape, capability):
    """Of rows with several positives, of one, and of none; in one part and in several of rows, columns and depth."""
    generator = torch.Generator().manual_seed(0)
    *sizes, depth = shape
    x, y = ((torch.randn(rows, depth, generator=generator) * (40 / depth) ** 0.5).to(dtype) for rows in sizes)
    scales = [torch.rand(rows, generator=generator) for rows in sizes]
    ids = [torch.randint(0, 200, (rows,), generator=generator) for rows in sizes]
    pairs = (*ids, None, None, None)
    args = (x, y, *scales, torch.tensor(-0.5), *pairs, kind, columns and kind == "logsumexp", 0.3, True, True)
    run = {backend.name: backend.run for backend in ops()["similarity_loss"].backends}
    # A bias moves the log-sum-exp and not the loss: its gradient is zero but for rounding.
    count = 5 if kind == "logsumexp" else 6
    found = (run["cpu"](*args), run["reference"](*args), run["reference"](*in_float64(args)))
    wrong = differences(*(each[:count] for each in found))
    assert not wrong
