"""Co-attention that pools two sequences: against its reference, and against the paper's equations."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch.nn.functional import linear
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import xmkern.functional as xf
from tests.bi_attention import lu2016
from xmkern.ops.bi_attention import additive_pool
from xmkern.ops.registry import ops
from xmkern.testing import assert_matches_reference, strategies, threads

B, L, S, D, K = 3, 7, 20, 16, 24


def tensors(*shapes, dtype=torch.float32, grad=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(shape, generator=generator) / 2).to(dtype).requires_grad_(grad) for shape in shapes]


@pytest.mark.parametrize("name", ["parallel_co_attention", "alternating_co_attention"])
def test_kernels_match_the_reference(name, capability):
    @settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(getattr(strategies, name)())
    def check(inputs):
        assert_matches_reference(name, inputs, backend="cpu")

    check()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_parallel_is_the_papers(backend):
    q, v, w_b, w_q, w_v, w_hq, w_hv = leaves = tensors((B, L, D), (B, S, D), (D, D), (K, D), (K, D), (K,), (K,))
    got = xf.parallel_co_attention(q, v, q @ w_b, v, linear(q, w_q), linear(v, w_v), w_hq, w_hv, backend=backend)
    expected = lu2016.parallel(*leaves)
    for x, y in zip(got, expected, strict=True):
        assert_close(x, y)
    compare_gradients(got, expected, leaves)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_alternating_is_the_papers(backend):
    q, v, *rest = tensors((B, L, D), (B, S, D), *[(K, D)] * 5, *[(K,)] * 3)
    w_x, w_g, w_hx = rest[:3], rest[3:5], rest[5:]
    hidden = [linear(x, w) for x, w in zip((q, v, q), w_x, strict=True)]
    got = xf.alternating_co_attention(q, v, hidden, w_g, w_hx, backend=backend)
    expected = lu2016.alternating(q, v, w_x, w_g, w_hx)
    for x, y in zip(got, expected, strict=True):
        assert_close(x, y)
    compare_gradients(got, expected, [q, v, *rest])


def compare_gradients(got, expected, leaves):
    grads = [torch.autograd.grad([x.cos().sum() for x in outs], leaves, retain_graph=True) for outs in (got, expected)]
    for x, y in zip(*grads, strict=True):
        assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guide", ["none", "one", "own"])
def test_gradients_of_the_reference(guide):
    """Against finite differences in float64."""
    x, hidden, weight = tensors((B, 4, 5), (B, 4, 3), (3,), dtype=torch.float64)
    guides = {"none": [], "one": [(B, 1, 3)], "own": [(B, 4, 3)]}[guide]
    mask = torch.tensor([[True] * 4, [False, True, True, False], [False] * 4])

    def call(x, hidden, weight, guide=None):
        return additive_pool(x, hidden, guide, weight, mask)

    assert torch.autograd.gradcheck(call, (x, hidden, weight, *tensors(*guides, dtype=torch.float64)))


@pytest.mark.parametrize("name", ["additive_pool", "additive_pool_backward"])
def test_opcheck(name):
    op = ops()[name]
    torch.manual_seed(0)
    torch.library.opcheck(op.overload, (*op.sample(), "auto"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_threads(dtype, capability):
    x, hidden, guide, weight = leaves = tensors((70, 9, D), (70, 9, K), (70, 1, K), (K,), dtype=dtype)
    results = []
    for count in (1, 2, 3, 7):
        with threads(count):
            pooled, shares = additive_pool(x, hidden, guide, weight)
            results.append((pooled, shares, *torch.autograd.grad(pooled.sum() + shares.cos().sum(), leaves)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("own", [False, True], ids=["one guide", "own guides"])
def test_what_lies_in_the_padding_reaches_nothing(own, backend):
    mask = torch.rand(B, L) < 0.5
    mask[1], mask[2, 0] = False, True
    results = []
    for padding in (0.0, torch.nan, torch.inf):
        x, hidden, guide, weight = leaves = tensors((B, L, D), (B, L, K), (B, L if own else 1, K), (K,))
        with torch.no_grad():
            for each in (x, hidden, guide) if own else (x, hidden):
                each.masked_fill_(~mask[..., None], padding)
        pooled, shares = additive_pool(x, hidden, guide, weight, mask, backend)
        grads = torch.autograd.grad(pooled.cos().sum() + shares.square().sum(), leaves)
        results.append((pooled, shares, *grads))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    pooled, shares, grad_x, grad_hidden, *_ = results[0]
    assert (pooled[1] == 0).all()
    for each in (shares, grad_x, grad_hidden):
        assert (each[~mask] == 0).all()
        assert (each[mask] != 0).any()


def test_checkpointing_changes_nothing():
    leaves = tensors((B, L, D), (B, S, D), (B, L, D), (B, S, D), (B, L, K), (B, S, K), (K,), (K,))
    results = []
    for out in (xf.parallel_co_attention(*leaves), checkpoint(xf.parallel_co_attention, *leaves, use_reentrant=False)):
        results.append((*out, *torch.autograd.grad(sum(x.cos().sum() for x in out), leaves)))
    assert all(torch.equal(got, expected) for got, expected in zip(*results, strict=True))


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4)])
def test_empty_axes(shape):
    a, b, *rest = tensors(shape, (shape[0], S, D), *[(shape[0], n, K) for n in (shape[1], S) * 2], (K,), (K,))
    pooled = xf.parallel_co_attention(a, b, *rest)
    sum(x.sum() for x in pooled).backward()
    assert (pooled.a == 0).all()
    assert (a.grad == 0).all()
    assert_close(pooled.weights_b.sum(1), torch.ones(shape[0]))
