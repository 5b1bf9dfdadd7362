"""The contrastive losses against matrices that are written out, and their operators against the reference."""

from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import xmkern.functional as xf
from tests.contrastive import dense
from xmkern.ops.contrastive import op, reference
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

    @settings(max_examples=60, **unhurried)
    @given(getattr(strategies, name)())
    def check(inputs):
        inputs = in_float64(inputs)
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
@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("distillation", "cosine_max_margin")])
def test_kernels_match_the_matrix_written_out(name, capability):
    """And so the reference that they are compared with elsewhere does, in every dtype."""

    @settings(max_examples=40, **unhurried)
    @given(getattr(strategies, name)())
    def check(inputs):
        call = partial(getattr(xf, name), backend="cpu")
        assert_matches_reference(call, inputs, reference=getattr(dense, name))

    check()


@needs_kernels
@pytest.mark.parametrize("kind", [kind for kind in reference.KINDS if kind != "margin"])
def test_kernels_match_the_reference(kind, capability):
    """The operators themselves: all sorts of pairs, and any gradient of any result."""

    def compared(name, args):
        exact = getattr(reference, name)(*in_float64(args))
        wrong = differences(ops()[name](*args, backend="cpu"), getattr(reference, name)(*args), exact)
        assert not wrong, f"{name}: {wrong}"

    @settings(max_examples=60, **unhurried)
    @given(strategies.similarity_reduce(kind))
    def check(args):
        compared("similarity_reduce", args)
        if kind == "maximum":
            return
        results = [reference.similarity_reduce(*args)[i] for i in (0, 1, 3, 4)]
        generator = torch.Generator().manual_seed(0)
        grads = [torch.randn(each.shape, generator=generator) for each in results]
        compared("similarity_reduce_backward", (*grads, *args[:12], *results, *args[12:]))

    check()
