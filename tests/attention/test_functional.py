"""Attention against its reference, and the promises that a comparison of values does not see."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import xmkern.functional as xf
from xmkern import masks
from xmkern.biases import RelativeBias, t5_buckets
from xmkern.ops.attention import reference
from xmkern.ops.registry import ops
from xmkern.testing import assert_matches_reference, strategies, threads


def tensors(*shapes, dtype=torch.float32, grad=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(grad) for shape in shapes]


def test_kernels_match_the_reference(capability):
    @settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(strategies.attention())
    def check(inputs):
        assert_matches_reference("attention", inputs, backend="cpu")

    check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("L", [300, 1])
def test_long_sequences(L, dtype, capability):
    """More keys and queries than one part holds, so that parts are merged."""
    query, key, value, bias = tensors((1, 4, L, 64), (1, 2, 1100, 64), (1, 2, 1100, 64), (1, 4, 1, 1100), dtype=dtype)
    mask = masks.band(700, 500) | masks.key_lengths(torch.tensor([40]))
    inputs = {"query": query, "key": key, "value": value, "mask": mask, "bias": bias, "return_lse": True}
    assert_matches_reference("attention", inputs, backend="cpu")


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
@pytest.mark.parametrize("form", ["none", "dense", "broadcast", "toeplitz", "buckets"])
def test_gradients_of_the_reference(form, dropout_p):
    """Against finite differences in float64."""
    query, key, value = (
        x.detach().double().requires_grad_() for x in tensors((2, 4, 3, 5), (2, 2, 4, 5), (2, 2, 4, 3))
    )
    shape = {"dense": (2, 4, 3, 4), "broadcast": (4, 1, 4), "toeplitz": (6, 4), "buckets": (5, 1)}.get(form)
    learned = () if shape is None else (torch.randn(shape, dtype=torch.float64, requires_grad=True),)
    mask = masks.causal(1) & masks.key_lengths(torch.tensor([4, 2])) | masks.band(0, 0)

    def call(query, key, value, bias=None):
        if form in ("toeplitz", "buckets"):
            bias = RelativeBias(bias, torch.arange(12).view(3, 4) % 5 if form == "buckets" else None)
        torch.manual_seed(0)
        return xf.attention(query, key, value, mask, bias=bias, dropout_p=dropout_p, return_lse=True)

    assert torch.autograd.gradcheck(call, (query, key, value, *learned))


@pytest.mark.parametrize("name", ["attention", "attention_backward"])
def test_opcheck(name):
    op = ops()[name]
    torch.manual_seed(0)
    torch.library.opcheck(op.overload, (*op.sample(), "auto"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 150, 170, 40), (1, 1, 700, 900, 16), (1, 2, 1, 2000, 64)])
def test_results_do_not_depend_on_threads(shape, dtype, capability):
    B, H, L, S, D = shape
    query, key, value = tensors((B, H, L, D), (B, 1, S, D), (B, 1, S, D), dtype=dtype)
    (table,) = tensors((32, H))
    bias, buckets = RelativeBias(table, t5_buckets(L, S)), RelativeBias(table, t5_buckets(L, S).unfold(0, S, 1).flip(0))
    results = []
    for count in (1, 2, 3, 7):
        with threads(count):
            for each in (bias, buckets):
                torch.manual_seed(0)
                parts = xf.attention(query, key, value, masks.causal(S - L), bias=each, dropout_p=0.1, return_lse=True)
                grads = torch.autograd.grad(sum(x.float().sum() for x in parts), (query, key, value, table))
                results.append((*parts, *grads))
    for i, other in enumerate(results):
        assert all(torch.equal(a, b) for a, b in zip(results[i % 2], other, strict=True))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", ["mask", "bool", "bias", "no keys"])
def test_a_query_that_sees_nothing(how, dtype, backend):
    S = 0 if how == "no keys" else 40
    query, key, value = tensors((2, 2, 30, 16), (2, 2, S, 16), (2, 2, S, 24), dtype=dtype)
    visible = torch.ones(2, 1, 30, S, dtype=torch.bool)
    visible[0] = False
    visible[1, :, 7:19] = False
    mask, bias = None, None
    if how == "mask":
        mask = masks.key_lengths(torch.tensor([0, 40])) & masks.dense(visible[1:])
    elif how == "bool":
        mask = visible
    elif how == "bias":
        bias = torch.where(visible, 0.5, -torch.inf).requires_grad_()
    out, lse = xf.attention(query, key, value, mask, bias=bias, return_lse=True, backend=backend)
    blind = ~visible.any(-1).expand(lse.shape)
    assert (out[blind] == 0).all()
    assert torch.equal(lse == -torch.inf, blind)
    (out.float().sum() + lse[~blind].sum()).backward()
    assert (query.grad[blind] == 0).all()
    assert blind.all() or (query.grad[~blind] != 0).any()
    for x in (key, value, *([] if bias is None else [bias])):
        assert x.grad.isfinite().all()
    assert (key.grad[0] == 0).all()


@pytest.mark.parametrize("lengths", [(0, 5), (5, 0), (0, 0), (1, 1), (1, 5), (5, 1)])
@pytest.mark.parametrize("form", ["none", "dense", "toeplitz"])
def test_lengths_of_nothing_and_of_one(lengths, form):
    L, S = lengths
    query, key, value = tensors((2, 2, L, 8), (2, 1, S, 8), (2, 1, S, 8))
    bias = {"none": None, "dense": torch.randn(2, L, 1), "toeplitz": RelativeBias(torch.randn(max(L + S - 1, 0), 2))}
    inputs = {"query": query, "key": key, "value": value, "bias": bias[form], "mask": masks.causal(2)}
    assert_matches_reference("attention", {**inputs, "return_lse": True}, backend="cpu")


@pytest.mark.parametrize("shape", [(0, 2, 3, 8), (2, 0, 3, 8)])
def test_empty_batches(shape):
    x = torch.randn(shape, requires_grad=True)
    out, lse = xf.attention(x, x, x, return_lse=True)
    out.sum().backward()
    assert out.shape == x.grad.shape == shape
    assert lse.shape == shape[:3]


def test_strides_of_more_elements_than_32_bits_count(capability):
    apart = 2**31 // 3
    memory = torch.empty(4 * apart, dtype=torch.float16)  # touched in four rows only
    far = memory.as_strided((1, 1, 4, 16), (0, 0, apart, 1)).copy_(torch.randn(1, 1, 4, 16))
    near = far.contiguous().requires_grad_()
    far.requires_grad_()
    outs = [xf.attention(x, x, x, masks.causal()) for x in (far, near)]
    for out in outs:
        out.sum().backward()
    assert torch.equal(*outs)
    assert torch.equal(far.grad, near.grad)


def test_a_dense_mask_of_more_elements_than_32_bits_count():
    apart = 2**31
    memory = torch.empty(2 * apart + 8, dtype=torch.bool)
    visible = memory.as_strided((1, 1, 3, 8), (0, 0, apart, 1)).copy_(torch.rand(1, 1, 3, 8) < 0.5)
    query, key, value = tensors((1, 1, 3, 8), (1, 1, 8, 8), (1, 1, 8, 8))
    expected = xf.attention(query, key, value, visible.clone())
    assert torch.equal(xf.attention(query, key, value, masks.dense(visible)), expected)


@pytest.mark.parametrize("kind", ["plain", "mask", "bias", "dropout"])
def test_what_is_kept_for_the_backward_is_not_a_matrix(kind):
    B, H, L, D = 2, 2, 256, 16
    query, key, value = tensors(*[(B, H, L, D)] * 3)
    (table,) = tensors((32, H))
    options = {
        "plain": {},
        "mask": {"mask": masks.prefix(torch.tensor([3, 200])) & masks.segments(torch.arange(L) // 100)},
        "bias": {"bias": RelativeBias(table, t5_buckets(L, L))},
        "dropout": {"dropout_p": 0.1},
    }[kind]
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = xf.attention(query, key, value, **options)
    operands = 4 * 4 * B * H * L * D  # query, key, value and out
    extra = {"plain": 0, "mask": 8 * B + 8 * L, "bias": 8 * (2 * L - 1) * (H + 1) + table.nbytes, "dropout": 8}[kind]
    assert operands <= sum(kept.values()) <= operands + 4 * B * H * L + extra
    out.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("L", [70, 1])
def test_padding_does_not_leak(L, dtype, capability):
    query, key, value = tensors((2, 2, L, 16), (2, 1, 200, 16), (2, 1, 200, 16), dtype=dtype)
    with torch.no_grad():
        for x in (key, value):
            x[0, :, 90:] = torch.nan
    out, lse = xf.attention(query, key, value, masks.key_lengths(torch.tensor([90, 200])), return_lse=True)
    (out.sum() + lse.sum()).backward()
    for x in (out, lse, query.grad, key.grad, value.grad):
        assert x.isfinite().all()


def test_nan_is_kept_where_it_belongs(capability):
    query, key, value = tensors((1, 1, 40, 16), (1, 1, 40, 16), (1, 1, 40, 16), grad=False)
    query[0, 0, 3, 5] = torch.nan
    out, lse = xf.attention(query, key, value, return_lse=True)
    wrong = torch.arange(40) == 3
    assert torch.equal(out[0, 0].isnan().all(1), wrong)
    assert torch.equal(out[0, 0].isnan().any(1), wrong)
    assert torch.equal(lse[0, 0].isnan(), wrong)


def test_a_scale_of_zero_is_a_mean(capability):
    query, key, value = tensors((1, 1, 5, 8), (1, 1, 9, 8), (1, 1, 9, 8))
    out = xf.attention(query, key, value, scale=0.0)
    torch.testing.assert_close(out, value.mean(2, keepdim=True).expand_as(out))
    grads = torch.autograd.grad(out.sum(), (query, key, value))
    for got, expected in zip(grads, (0.0, 0.0, 5 / 9), strict=True):
        torch.testing.assert_close(got, torch.full_like(got, expected))


def test_the_memory_order_of_the_query_comes_back():
    x = torch.randn(2, 10, 3, 8).transpose(1, 2).requires_grad_()
    out = xf.attention(x, x, x)
    out.sum().backward()
    assert out.stride() == x.stride() == x.grad.stride()
    assert xf.attention(x, x, x.repeat(1, 1, 1, 2)).transpose(1, 2).is_contiguous()


def test_the_reference_is_what_its_formula_says():
    """Independently of the code under test: torch's softmax over a matrix."""
    query, key, value, bias = tensors((2, 4, 6, 8), (2, 2, 9, 8), (2, 2, 9, 5), (4, 6, 9), grad=False)
    scores = torch.einsum("bhld,bhsd->bhls", query, key.repeat_interleave(2, 1)) * 0.3 + bias
    scores = scores.masked_fill(torch.ones(6, 9).triu(2).bool(), -torch.inf)
    out, lse = reference.attention(query, key, value, *_compiled(masks.causal(1)), bias[None], None, 0.3, 0.0, None)
    torch.testing.assert_close(out, scores.softmax(-1) @ value.repeat_interleave(2, 1))
    torch.testing.assert_close(lse, scores.logsumexp(-1))


def _compiled(mask):
    return mask.program, mask.tensors
