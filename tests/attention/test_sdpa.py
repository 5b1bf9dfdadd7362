"""scaled_dot_product_attention against torch's own, argument for argument."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import xmkern.functional as xf
from xmkern import masks

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 4e-2, torch.float16: 4e-3}


def assert_same(*args, **kwargs):
    """Values and the gradients of all tensors that require one."""
    leaves = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor) and x.requires_grad]
    results = []
    for call in (xf.scaled_dot_product_attention, F.scaled_dot_product_attention):
        out = call(*args, **kwargs)
        generator = torch.Generator().manual_seed(0)
        cotangent = torch.randn(out.shape, generator=generator).to(out.dtype)
        grads = torch.autograd.grad(out, leaves, cotangent, materialize_grads=True) if leaves else ()
        results.append((out, *grads))
    close = TOLERANCE[args[0].dtype]
    for got, expected in zip(*results, strict=True):
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=close, atol=close)


def test_the_signature_is_torchs():
    assert list(inspect.signature(xf.scaled_dot_product_attention).parameters) == [
        "query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa",
    ]  # fmt: skip
    x = torch.randn(1, 1, 3, 8)
    with pytest.raises(TypeError, match="positional"):
        xf.scaled_dot_product_attention(x, x, x, None, 0.0, False, 1.0)
    with pytest.raises(TypeError, match="positional"):
        F.scaled_dot_product_attention(x, x, x, None, 0.0, False, 1.0)


@given(st.data())
def test_values_and_gradients(data):
    draw = data.draw
    lead = draw(st.sampled_from([(), (3,), (2, 3), (2, 3), (2, 1, 3), (0, 2)]))
    L, S, D = draw(st.sampled_from([1, 5, 40])), draw(st.sampled_from([1, 7, 40])), draw(st.sampled_from([4, 24, 64]))
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16]))
    torch.manual_seed(draw(st.integers(0, 1000)))
    query, key, value = (
        torch.randn(*lead, n, d, dtype=dtype, requires_grad=True) for n, d in ((L, D), (S, D), (S, draw(st.just(D))))
    )
    options = {"scale": draw(st.sampled_from([None, 0.2]))}
    kind = draw(st.sampled_from(["none", "bool", "float"]))
    if kind == "none":
        options["is_causal"] = draw(st.booleans())
    else:
        shape = draw(st.sampled_from([(L, S), (1, S), (*lead, L, S), (*[1] * len(lead), L, S)]))
        visible = torch.rand(shape) < 0.8
        visible[..., 0] = True
        mask = torch.where(visible, torch.randn(shape, dtype=dtype), -torch.inf).to(dtype).requires_grad_()
        options["attn_mask"] = visible if kind == "bool" else mask
    assert_same(query, key, value, **options)


def test_causal_starts_at_the_top_left():
    assert_same(torch.randn(1, 2, 4, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8), is_causal=True)
    assert_same(torch.randn(1, 2, 9, 8), torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8), is_causal=True)


def test_a_mask_and_causal_are_joined():
    """As torch's fused kernels do; its others refuse."""
    query, key, value = (torch.randn(2, 3, 6, 8) for _ in range(3))
    visible = torch.rand(6, 6) < 0.6
    both = visible.tril()
    biased = torch.where(visible, torch.randn(6, 6), -torch.inf)
    for mask, joined in ((visible, both), (biased, biased.masked_fill(~both, -torch.inf))):
        expected = F.scaled_dot_product_attention(query, key, value, joined)
        for part in (slice(None), 0):
            got = xf.scaled_dot_product_attention(query[part], key[part], value[part], mask, is_causal=True)
            torch.testing.assert_close(got, expected[part])


@pytest.mark.parametrize("lead", [(2,), (2, 3), ()])
def test_grouped_queries(lead):
    query = torch.randn(*lead, 6, 5, 8, requires_grad=True)
    key, value = (torch.randn(*lead, 2, 7, 8, requires_grad=True) for _ in range(2))
    assert_same(query, key, value, enable_gqa=True)
    assert_same(query, key, value, is_causal=True, enable_gqa=True)


def test_leading_axes_broadcast():
    assert_same(torch.randn(2, 3, 5, 8), torch.randn(1, 3, 7, 8), torch.randn(3, 7, 8))
    assert_same(torch.randn(3, 5, 8), torch.randn(2, 1, 7, 8), torch.randn(1, 7, 8))
    assert_same(torch.randn(2, 3, 5, 8), torch.randn(2, 1, 7, 8), torch.randn(2, 3, 7, 4))


def test_a_query_that_sees_nothing_gives_zeros_as_in_torch():
    query, key, value = (torch.randn(1, 2, 4, 8, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[True, True, True, True], [False] * 4, [True, False, True, False], [True, True, False, False]])
    assert_same(query, key, value, mask)


def test_dropout():
    x = torch.ones(1, 1, 50, 200)
    torch.manual_seed(3)
    first, second = (xf.scaled_dot_product_attention(x, x, x, dropout_p=0.5) for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(first, xf.scaled_dot_product_attention(x, x, x, dropout_p=0.5))
    assert not torch.equal(first, second)
    assert abs(first.mean() - 1) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast(dtype):
    query, key, value = (torch.randn(2, 2, 5, 8, dtype=dtype) for _ in range(3))
    mask = torch.randn(5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        got = xf.scaled_dot_product_attention(query, key, value, mask.to(dtype))
        expected = F.scaled_dot_product_attention(query, key, value, mask.to(dtype))
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=4e-2, atol=4e-2)


def test_a_mask_of_the_algebra_is_no_attn_mask():
    for x in (X, X[0]):
        with pytest.raises(TypeError, match="attn_mask must be a tensor, not Mask"):
            xf.scaled_dot_product_attention(x, x, x, masks.causal())


X = torch.randn(2, 3, 5, 8)


@pytest.mark.parametrize(
    ("args", "options", "words"),
    [
        ((X[0, 0, 0], X, X), {}, "query must have at least two axes"),
        ((X, X.double(), X), {}, "of one dtype"),
        ((X, X[:, :, :, :4], X), {}, "key must have the axes"),
        ((X, X[:, :2], X[:, :2]), {}, "must broadcast in all but the last two axes"),
        ((X, X[:, :2], X[:, :2]), {"enable_gqa": True}, "divides"),
        ((X, X, X, torch.ones(4, 5).bool()), {}, "mask"),
        ((X, X, X, torch.ones(5, 5).int()), {}, "attn_mask must be bool"),
        ((X, X, X), {"dropout_p": 1.5}, "dropout_p must be 0 to 1"),
    ],
)
def test_what_torch_refuses_is_refused_by_name(args, options, words):
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        F.scaled_dot_product_attention(*args, **options)
    with pytest.raises((ValueError, TypeError), match=words):
        xf.scaled_dot_product_attention(*args, **options)
