"""Attention between modalities and over several sources: against the references, and against attention itself."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import xmkern.functional as xf
from xmkern import masks
from xmkern.biases import RelativeBias
from xmkern.ops.registry import ops
from xmkern.testing import assert_matches_reference, strategies, threads

SUPPRESSED = [HealthCheck.too_slow, HealthCheck.data_too_large]


def tensors(*shapes, dtype=torch.float32, grad=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(grad) for shape in shapes]


def streams(dtype=torch.float32, B=2, L=37, S=21):
    """q_a, k_a, v_a, q_b, k_b, v_b, of other heads and widths in each direction"""
    a, b = (B, 4, L, 24), (B, 3, S, 16)
    return tensors(a, (B, 3, L, 16), (B, 3, L, 40), b, (B, 2, S, 24), (B, 2, S, 8), dtype=dtype)


@pytest.mark.parametrize("name", ["co_attention", "cross_attention"])
def test_kernels_match_the_reference(name, capability):
    @settings(max_examples=80, suppress_health_check=SUPPRESSED)
    @given(getattr(strategies, name)())
    def check(inputs):
        assert_matches_reference(name, inputs, backend="cpu")

    check()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_co_attention_is_two_attentions_bit_for_bit(dropout_p, dtype, backend):
    given = streams(dtype)
    mask_a = masks.key_lengths(torch.tensor([21, 4])) | masks.band(3, 0)
    (table,), (mask_b,) = tensors((37 + 21 - 1, 3)), tensors((2, 1, 21, 37))
    bias_a, bias_b = tensors((37, 21))[0], RelativeBias(table)
    q_a, k_a, v_a, q_b, k_b, v_b = given

    def both():
        return xf.co_attention(
            *given, mask_a, mask_b, bias_a=bias_a, bias_b=bias_b, dropout_p=dropout_p, backend=backend
        )

    def two():
        options = {"dropout_p": dropout_p, "backend": backend}
        return (
            xf.attention(q_a, k_b, v_b, mask_a, bias=bias_a, **options),
            xf.attention(q_b, k_a, v_a, mask_b, bias=bias_b, **options),
        )

    results = []
    for call in (both, two):
        torch.manual_seed(3)
        outs = call()
        loss = sum(out.float().square().sum() for out in outs)
        results.append((*outs, *torch.autograd.grad(loss, [*given, table, mask_b, bias_a])))
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("L", [2, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_sources_are_one(dtype, L, capability):
    """What the concatenation of keys, values, masks and biases gives, forward and backward."""
    lengths = [20, 0, 300, 64]
    query, *rest = tensors(
        (2, 4, L, 16), *[(2, 2, n, 16) for n in lengths], *[(2, 2, n, 24) for n in lengths], dtype=dtype
    )
    keys, values = rest[:4], rest[4:]
    first = masks.key_lengths(torch.tensor([20, 3]))
    (bias,) = tensors((4, L, 300))
    (cotangent,) = tensors((2, 4, L, 24), grad=False)

    def apart():
        options = [(first,), (), (None, bias), (masks.causal(5),)]
        return xf.cross_attention(
            query, [xf.KeyValue(*kv, *rest) for *kv, rest in zip(keys, values, options, strict=True)], return_lse=True
        )

    def together():
        shape = (2, 4, L)
        dense = [
            first.to_dense(*shape, 20), torch.ones(*shape, 300, dtype=torch.bool), masks.causal(5).to_dense(*shape, 64)
        ]  # fmt: skip
        joined = torch.cat([bias.new_zeros(4, L, 20), bias, bias.new_zeros(4, L, 64)], 2)
        wide = [x.double() for x in (query, torch.cat(keys, 2), torch.cat(values, 2))]
        return xf.attention(*wide, torch.cat(dense, 3), bias=joined.double(), return_lse=True)

    results = []
    for call in (apart, together):
        out, lse = call()
        loss = (out * cotangent).sum() + lse.sum()
        results.append((out, lse, *torch.autograd.grad(loss, [query, *keys, *values, bias])))
    close = 1e-5 if dtype == torch.float32 else 3e-2
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=close, atol=close, check_dtype=False)


def test_long_sources(capability):
    """More keys and queries than one part holds, so that parts are merged, and few queries against many keys."""
    for L in (600, 3):
        query, *rest = tensors((1, 2, L, 16), *[(1, 1, n, 16) for n in (3000, 700)] * 2)
        sources = [(rest[0], rest[2], masks.band(900, 2900)), (rest[1], rest[3])]
        assert_matches_reference(
            "cross_attention", {"query": query, "sources": sources, "return_lse": True}, backend="cpu"
        )


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_gradients_of_the_reference(dropout_p):
    """Against finite differences in float64."""
    given = [
        x.detach().double().requires_grad_() for x in tensors((2, 4, 3, 5), *[(2, 2, n, 5) for n in (4, 0, 3)] * 2)
    ]
    tables = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((4, 1, 4), (5, 1))]

    def call(query, *rest):
        keys, values, (bias, table) = rest[:3], rest[3:6], rest[6:]
        torch.manual_seed(0)
        options = [(masks.key_lengths(torch.tensor([4, 2])), bias), (None, None), (None, RelativeBias(table))]
        sources = [(*kv, *rest) for *kv, rest in zip(keys, values, options, strict=True)]
        return xf.cross_attention(query, sources, dropout_p=dropout_p, return_lse=True)

    assert torch.autograd.gradcheck(call, (*given, *tables))


@pytest.mark.parametrize("name", ["cross_attention", "cross_attention_backward"])
def test_opcheck(name):
    op = ops()[name]
    torch.manual_seed(0)
    torch.library.opcheck(op.overload, (*op.sample(), "auto"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_threads(dtype, capability):
    given = streams(dtype, L=700, S=330)
    query, *rest = tensors((2, 4, 300, 16), (2, 2, 40, 16), (2, 2, 530, 16), dtype=dtype)
    (table,) = tensors((339, 4))
    results = []
    for count in (1, 2, 5):
        with threads(count):
            torch.manual_seed(0)
            outs = xf.co_attention(*given, masks.causal(), dropout_p=0.1)
            sources = [(rest[0], rest[0], None, RelativeBias(table)), (rest[1], rest[1])]
            outs += xf.cross_attention(query, sources, dropout_p=0.1, return_lse=True)
            grads = torch.autograd.grad(sum(x.float().sum() for x in outs), [*given, query, *rest, table])
            results.append((*outs, *grads))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_query_that_sees_nothing(backend):
    query, *rest = tensors((2, 2, 30, 16), *[(2, 2, n, 16) for n in (40, 9)] * 2)
    sources = [(rest[0], rest[2], masks.key_lengths(torch.tensor([0, 40]))), (rest[1], rest[3], masks.causal(-5))]
    out, lse = xf.cross_attention(query, sources, return_lse=True, backend=backend)
    blind = torch.zeros(2, 2, 30, dtype=torch.bool)
    blind[0, :, :5] = True
    assert torch.equal((out == 0).all(-1), blind)
    assert torch.equal(lse == -torch.inf, blind)
    (out.sum() + lse[~blind].sum()).backward()
    assert torch.equal((query.grad == 0).all(-1), blind)
    for x in rest:
        assert x.grad.isfinite().all()
    assert (rest[0].grad[0] == 0).all()


@pytest.mark.parametrize("L", [50, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_does_not_leak(dtype, L, capability):
    query, *rest = tensors((2, 2, L, 16), *[(2, 2, n, 16) for n in (90, 70)] * 2, dtype=dtype)
    with torch.no_grad():
        for x in rest:
            x[0, :, 33:] = torch.nan
    mask = masks.key_lengths(torch.tensor([33, 70]))
    out, lse = xf.cross_attention(query, [(rest[0], rest[2], mask), (rest[1], rest[3], mask)], return_lse=True)
    (out.sum() + lse.sum()).backward()
    for x in (out, lse, query.grad, *(x.grad for x in rest)):
        assert x.isfinite().all()


def test_what_is_kept_for_the_backward_is_not_a_matrix():
    given = streams(L=256, S=200)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        xf.co_attention(*given, masks.causal(), dropout_p=0.1)
        xf.cross_attention(given[0], [(given[4], given[5])] * 3)
    assert max(sizes) <= max(x.numel() for x in given)
    assert sum(sizes) <= 6 * sum(x.numel() for x in given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_one_output_of_co_attention_is_used(dtype):
    given = streams(dtype)
    q_a, _, _, _, k_b, v_b = given
    out_a, _ = xf.co_attention(*given)
    grads = torch.autograd.grad(out_a.float().sum(), given, allow_unused=True)
    expected = torch.autograd.grad(xf.attention(q_a, k_b, v_b).float().sum(), (q_a, k_b, v_b))
    for got, want in zip((grads[0], grads[4], grads[5]), expected, strict=True):
        assert torch.equal(got, want)
    for grad in (grads[1], grads[2], grads[3]):
        assert grad is None or (grad == 0).all()
