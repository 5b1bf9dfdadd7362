"""Hypothesis strategies: each draws the keyword arguments of the call of ``xmkern.functional`` with its name.

They lean towards the corners: empty axes, ties, lengths that are no multiple of anything, strided and sliced tensors.
"""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from xmkern import biases, masks

Inputs = dict[str, Any]

# Around the widths and counts at which kernels change their ways.
_bytes = st.one_of(st.integers(1, 40), st.sampled_from([64, 127, 128, 512]))
_counts = st.one_of(st.integers(0, 20), st.sampled_from([63, 64, 255, 256, 257, 511, 513, 1100]))
_queries = st.one_of(st.integers(0, 5), st.sampled_from([11, 12, 13, 16, 17, 40]))


def strided(draw: Callable[..., Any], x: Tensor) -> Tensor:
    """The same values behind other strides: as they are, transposed in memory, or a slice of something larger."""
    layout = draw(st.sampled_from(["contiguous", "transposed", "sliced"]))
    if layout == "transposed":
        return x.t().contiguous().t()
    if layout == "sliced":
        wide = torch.zeros(x.shape[0] * 2, x.shape[1] + 3, dtype=x.dtype)
        view = wide[::2, 1 : 1 + x.shape[1]]
        view.copy_(x)
        return view
    return x


@st.composite
def codes(draw: Callable[..., Any], count: int, width: int) -> Tensor:
    """uint8 [count, width]: random, or drawn from few distinct rows so that distances tie, or all alike."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    kinds = draw(st.sampled_from([0, 1, 3]))
    if kinds:
        distinct = torch.randint(0, 256, (kinds, width), dtype=torch.uint8, generator=generator)
        rows = distinct[torch.randint(0, kinds, (count,), generator=generator)]
    else:
        rows = torch.randint(0, 256, (count, width), dtype=torch.uint8, generator=generator)
    return strided(draw, rows)


@st.composite
def pack_bits(draw: Callable[..., Any]) -> Inputs:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    rows, bits = draw(st.integers(0, 20)), draw(st.one_of(st.integers(1, 150), st.sampled_from([512, 4095, 4096])))
    dtype = draw(
        st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool])
    )
    x = torch.randn(rows, bits, generator=generator)
    special = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), -1e-30])
    if dtype.is_floating_point:
        x = torch.where(torch.rand(x.shape, generator=generator) < 0.2, special[torch.randint(0, 6, x.shape)], x)
    return {"x": strided(draw, x > 0 if dtype == torch.bool else x.to(dtype))}


@st.composite
def unpack_bits(draw: Callable[..., Any]) -> Inputs:
    width = draw(_bytes)
    return {"codes": draw(codes(draw(st.integers(0, 20)), width)), "bits": draw(st.integers(1, 8 * width))}


@st.composite
def hamming_distance(draw: Callable[..., Any]) -> Inputs:
    width = draw(_bytes)
    return {"a": draw(codes(draw(_queries), width)), "b": draw(codes(draw(_counts), width))}


@st.composite
def hamming_topk(draw: Callable[..., Any]) -> Inputs:
    width, count = draw(_bytes), draw(_counts)
    k = draw(st.one_of(st.integers(0, 12), st.sampled_from([count, count + 1, 100])))
    return {"queries": draw(codes(draw(_queries), width)), "codes": draw(codes(count, width)), "k": k}


@st.composite
def hamming_range(draw: Callable[..., Any]) -> Inputs:
    width = draw(_bytes)
    radius = draw(st.one_of(st.integers(-1, 8 * width + 1), st.just(4 * width)))
    return {"queries": draw(codes(draw(_queries), width)), "codes": draw(codes(draw(_counts), width)), "radius": radius}


_lengths = st.one_of(st.integers(0, 5), st.sampled_from([1, 16, 17, 40, 63, 64, 65, 100, 130]))
_depths = st.one_of(st.integers(1, 20), st.sampled_from([32, 40, 64, 72, 80, 128, 160, 256]))


@st.composite
def attention(draw: Callable[..., Any]) -> Inputs:
    """Empty and single axes, grouped heads, Dv != D; all masks, biases and dtypes, laid out in all ways."""
    B, Hk, group = draw(st.sampled_from([1, 2, 2, 3, 0])), draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    L, S, D = draw(_lengths), draw(_lengths), draw(_depths)
    shape = (B, Hk * group, L, S)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    graded = draw(st.booleans())
    visible = draw(st.one_of(st.none(), mask(shape), _bool_or_float(shape, generator)))
    bias = draw(st.one_of(st.none(), _dense_bias(shape, generator), _relative_bias(shape, generator)))
    # Where no query has a choice among keys, as with one key, or a bias is the same for all keys, gradients through the
    # output alone are zero but for rounding, and eager PyTorch's, by luck, without. Those through the log-sum-exp are
    # not.
    without_lse = visible is None and bias is None and S >= 16

    def operand(heads: int, length: int, depth: int) -> Tensor:
        x = draw(_laid_out(torch.randn(B, heads, length, depth, generator=generator).to(dtype)))
        return x.requires_grad_(graded)

    return {
        "query": operand(Hk * group, L, D),
        "key": operand(Hk, S, D),
        "value": operand(Hk, S, draw(st.one_of(st.just(D), _depths))),
        "mask": visible,
        "bias": bias,
        "scale": draw(st.sampled_from([None, None, 0.7 * D**-0.5, -(D**-0.5)])),
        "dropout_p": draw(st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.7, 1.0])),
        "return_lse": not without_lse or draw(st.booleans()),
    }


@st.composite
def _laid_out(draw: Callable[..., Any], x: Tensor) -> Tensor:
    """[B, H, length, depth]: the same values, as projections, slices and expansions lay them out."""
    layout = draw(st.sampled_from(["contiguous", "heads inside", "packed", "sliced", "depth outside", "expanded"]))
    if layout == "heads inside":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "packed":  # one of the three that a projection makes
        return torch.stack([x, x, x]).permute(1, 3, 0, 2, 4).contiguous()[:, :, 1].transpose(1, 2)
    if layout == "sliced":
        wide = x.new_full((*x.shape[:2], x.shape[2] * 2, x.shape[3] + 3), torch.nan)
        view = wide[:, :, ::2, 1 : 1 + x.shape[3]]
        view.copy_(x)
        return view
    if layout == "depth outside":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "expanded" and x.shape[0]:
        return x[:1].expand_as(x)
    return x


@st.composite
def mask(draw: Callable[..., Any], shape: tuple[int, int, int, int]) -> masks.Mask:
    """One mask of the algebra, or up to three combined."""
    B, _, L, S = shape
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))

    def integers(most: int, *size: int) -> Tensor:
        return torch.randint(0, most, size, generator=generator)

    def one() -> masks.Mask:
        kind = draw(st.sampled_from(["causal", "band", "key_lengths", "prefix", "axial", "segments", "dense"]))
        if kind == "causal":
            return masks.causal(draw(st.sampled_from([0, 0, S - L, -3, 40])))
        if kind == "band":
            side = st.one_of(st.none(), st.integers(-5, 70))
            return masks.band(draw(side), draw(side))
        if kind in ("key_lengths", "prefix"):
            return getattr(masks, kind)(integers(S + 2, B))
        if kind == "axial":
            what = draw(st.sampled_from([("row",), ("column",), ("conv", 3), ("conv", 5)]))
            return masks.axial(draw(st.integers(0, 20)), draw(st.integers(1, 8)), draw(st.integers(1, 12)), *what)
        if kind == "segments":
            queries = integers(3, draw(st.sampled_from([1, B])), L).sort().values
            return masks.segments(queries, integers(3, draw(st.sampled_from([1, B])), S).sort().values)
        return masks.dense(draw(_broadcast(torch.rand(shape, generator=generator) < 0.7)))

    combined = one()
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        combined = combined & one() if draw(st.booleans()) else combined | one()
    return combined


@st.composite
def _broadcast(draw: Callable[..., Any], x: Tensor) -> Tensor:
    """The same with some axes of one element, or without its first axes."""
    for axis in range(x.dim()):
        if x.shape[axis] and draw(st.booleans()):
            x = x.narrow(axis, 0, 1)
    while x.dim() > 1 and x.shape[0] == 1 and draw(st.booleans()):
        x = x[0]
    return x


@st.composite
def _bool_or_float(draw: Callable[..., Any], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    visible = draw(_broadcast(torch.rand(shape, generator=generator) < 0.7))
    if draw(st.booleans()):
        return visible
    return torch.where(visible, torch.randn(visible.shape, generator=generator), -torch.inf)


@st.composite
def _dense_bias(draw: Callable[..., Any], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    bias = draw(_broadcast(torch.randn(shape, generator=generator)))
    return bias.to(draw(st.sampled_from([torch.float32, torch.bfloat16]))).requires_grad_(draw(st.booleans()))


@st.composite
def _relative_bias(
    draw: Callable[..., Any], shape: tuple[int, int, int, int], generator: torch.Generator
) -> biases.RelativeBias:
    _, H, L, S = shape
    distances = max(L + S - 1, 0)
    rows, form = draw(st.sampled_from([2, 7, 32])), draw(st.sampled_from(["matrix", "distances", "toeplitz"]))
    table = torch.randn(
        distances if form == "toeplitz" else rows, draw(st.sampled_from([1, H])), generator=generator
    ).requires_grad_(draw(st.booleans()))
    if form == "toeplitz":
        return biases.RelativeBias(table)
    size = (L, S) if form == "matrix" else (distances,)
    kind = draw(st.sampled_from([torch.int32, torch.int64]))
    return biases.RelativeBias(table, torch.randint(0, rows, size, generator=generator).to(kind))
