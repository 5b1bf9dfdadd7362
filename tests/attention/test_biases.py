"""Biases that are looked up: what the tables mean, in T5's and Swin's own words, and their gradients."""

import math

import pytest
import torch

import xmkern.functional as xf
from xmkern.biases import RelativeBias, swin_buckets, t5_buckets


def t5_original(relative_position, bidirectional, num_buckets, max_distance):
    """As published: relative_position is key minus query."""
    buckets = torch.zeros_like(relative_position)
    if bidirectional:
        num_buckets //= 2
        buckets += (relative_position > 0).long() * num_buckets
        relative_position = relative_position.abs()
    else:
        relative_position = -torch.min(relative_position, torch.zeros_like(relative_position))
    max_exact = num_buckets // 2
    large = max_exact + (
        torch.log(relative_position.float() / max_exact)
        / math.log(max_distance / max_exact)
        * (num_buckets - max_exact)
    ).to(torch.long)
    large = torch.min(large, torch.full_like(large, num_buckets - 1))
    return buckets + torch.where(relative_position < max_exact, relative_position, large)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (64, 300)])
@pytest.mark.parametrize(("L", "S", "offset"), [(400, 400, 0), (5, 300, 0), (1, 200, 199), (7, 200, 193), (0, 3, 0)])
def test_t5_buckets(L, S, offset, num_buckets, max_distance, bidirectional):
    buckets = t5_buckets(L, S, num_buckets, max_distance, bidirectional, offset=offset)
    i, j = torch.arange(L)[:, None] + offset, torch.arange(S)
    expected = t5_original(j - i, bidirectional, num_buckets, max_distance)
    assert torch.equal(buckets[torch.arange(S) - torch.arange(L)[:, None] + L - 1], expected.int())
    assert buckets.shape == (L + S - 1,)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (1, 4), (3, 5)])
def test_swin_buckets(height, width):
    coords = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).flatten(1)
    relative = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0).contiguous()
    relative[:, :, 0] += height - 1
    relative[:, :, 1] += width - 1
    relative[:, :, 0] *= 2 * width - 1
    assert torch.equal(swin_buckets(height, width), relative.sum(-1).int())
    assert torch.equal(swin_buckets(4), swin_buckets(4, 4))


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("form", ["matrix", "distances", "toeplitz"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_table_is_the_matrix_that_it_stands_for(form, heads, dtype, capability):
    L, S = 20, 33
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 4, n, 16) for n in (L, S, S))
    rows = L + S - 1 if form == "toeplitz" else 32
    table = torch.randn(rows, heads, dtype=dtype, requires_grad=True)
    distances = t5_buckets(L, S)
    places = torch.arange(S) - torch.arange(L)[:, None] + L - 1
    buckets = {"matrix": distances[places].long(), "distances": distances, "toeplitz": None}[form]
    bias = RelativeBias(table, buckets)
    matrix = table.float()[places if form == "toeplitz" else distances[places]].movedim(-1, 0)[None]
    assert torch.equal(bias.to_dense(L, S).float(), matrix)
    results = []
    for each in (bias, matrix):
        out = xf.attention(query, key, value, bias=each)
        results.append((out, torch.autograd.grad(out.square().sum(), table)[0]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4 if dtype == torch.float32 else 1e-2, atol=1e-4)
    assert results[0][1].dtype == dtype


@pytest.mark.parametrize("learned", [True, False])
def test_a_table_and_a_float_mask_are_added(learned):
    query, key, value = (torch.randn(2, 4, n, 16) for n in (5, 9, 9))
    table = torch.randn(32, 4, requires_grad=learned)
    bias = RelativeBias(table, t5_buckets(5, 9))
    mask = torch.where(torch.rand(2, 1, 1, 9) < 0.7, 0.0, -torch.inf)
    out = xf.attention(query, key, value, mask, bias=bias)
    torch.testing.assert_close(out, xf.attention(query, key, value, mask == 0, bias=bias))
    torch.testing.assert_close(out, xf.attention(query, key, value, bias=bias.to_dense(5, 9) + mask))
    assert out.requires_grad == learned


@pytest.mark.parametrize("shape", [(2, 4, 5, 9), (4, 5, 9), (5, 9), (9,), (1, 4, 1, 9), (2, 1, 5, 1), (4, 1, 1)])
def test_the_gradient_of_a_bias_has_its_own_shape(shape, capability):
    query, key, value = (torch.randn(2, 4, n, 16) for n in (5, 9, 9))
    bias = torch.randn(shape, requires_grad=True)
    grads = []
    for each in (bias, bias.expand(2, 4, 5, 9) + torch.zeros(2, 4, 5, 9)):
        out, lse = xf.attention(query, key, value, bias=each, return_lse=True)
        grads.append(torch.autograd.grad(out.square().sum() + lse.sum(), bias)[0])
    assert grads[0].shape == shape
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [-1, 5])
def test_buckets_outside_the_table_are_found(wrong):
    x = torch.randn(1, 1, 3, 8)
    buckets = torch.tensor([[0, 1, 2], [3, wrong, 0], [0, 0, 0]])
    with pytest.raises((ValueError, IndexError)):
        xf.attention(x, x, x, bias=RelativeBias(torch.randn(5, 1), buckets), backend="cpu")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda t, b: RelativeBias([1.0]), TypeError, "table must be a tensor, not list"),
        (lambda t, b: RelativeBias(t[0]), ValueError, r"table must have two axes, \[N, H\], not shape \[4\]"),
        (lambda t, b: RelativeBias(t.int()), TypeError, "table must hold floating-point numbers"),
        (lambda t, b: RelativeBias(t, [0]), TypeError, "buckets must be a tensor, not list"),
        (lambda t, b: RelativeBias(t, b.float()), TypeError, "buckets must be int32 or int64"),
        (lambda t, b: RelativeBias(t, b[None, None]), ValueError, r"buckets must have the axes \[L, S\] or"),
        (lambda t, b: RelativeBias(t, b.to("meta")), ValueError, "buckets must be on cpu as table is"),
        (
            lambda t, b: RelativeBias(t, b[1:]).check(4, 2, 3),
            ValueError,
            r"buckets must have shape \[L, S\] = \[2, 3\]",
        ),
        (lambda t, b: RelativeBias(t, b).check(3, 2, 3), ValueError, "table must have 1 or H = 3 columns, not 4"),
        (lambda t, b: RelativeBias(t).check(4, 2, 3), ValueError, "table must have L . S - 1 = 4 rows .* not 8"),
        (lambda t, b: swin_buckets(0), ValueError, "height and width must be positive"),
        (lambda t, b: t5_buckets(3, 3, 64, 16), ValueError, "max_distance must exceed the 16 buckets"),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call(torch.randn(8, 4), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("buckets", [torch.full((5, 5), 2**32 + 1), torch.full((9,), 7), torch.full((9,), -1)])
@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_buckets_that_the_table_lacks(buckets, backend):
    x = torch.randn(1, 2, 5, 8)
    with pytest.raises(ValueError, match="bias: buckets must be 0 to 3, rows of the table"):
        xf.attention(x, x, x, bias=RelativeBias(torch.randn(4, 2), buckets), backend=backend)
