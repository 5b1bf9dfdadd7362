"""Arguments of attention: masks, biases, layouts."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from xmkern import biases, masks
from xmkern.testing.strategies.layout import Inputs

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
        x = draw(laid_out(torch.randn(B, heads, length, depth, generator=generator).to(dtype)))
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
def laid_out(draw: Callable[..., Any], x: Tensor) -> Tensor:
    """[B, H, length, depth]: the same values, as projections, slices and expansions lay them out."""
    layouts = ["contiguous", "heads inside", "packed", "sliced", "depth outside", "expanded", "one row"]
    layout = draw(st.sampled_from(layouts))
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
    if layout == "one row" and x.shape[2]:
        return x[:, :, :1].expand_as(x)
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
