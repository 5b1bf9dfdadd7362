"""Arguments of attention between modalities and over several sources."""

from collections.abc import Callable
from typing import Any

import torch
import torch.utils._pytree as pytree
from hypothesis import strategies as st
from torch import Tensor

from xmkern.testing.strategies.attention import (
    _bool_or_float,
    _dense_bias,
    _depths,
    _lengths,
    _relative_bias,
    laid_out,
    mask,
)
from xmkern.testing.strategies.layout import Inputs

_dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
_dropouts = st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.7])


@st.composite
def co_attention(draw: Callable[..., Any]) -> Inputs:
    """Two streams of different lengths, widths and heads; masks and biases on either side."""
    B, L, S = draw(st.sampled_from([1, 2, 2, 3, 0])), draw(_lengths), draw(_lengths)
    generator, dtype, graded = _random(draw)
    inputs: Inputs = {}
    for side, other, queries, keys in (("a", "b", L, S), ("b", "a", S, L)):
        Hk, group, D = draw(st.integers(1, 2)), draw(st.sampled_from([1, 1, 2, 3])), draw(_depths)
        visible, bias = _visible_and_bias(draw, (B, Hk * group, queries, keys), generator)
        if not (keys >= 16 and visible is None and bias is None):
            # Gradients through the output alone may be zero but for rounding: see attention's strategy.
            graded, bias = False, pytree.tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, bias)
        inputs |= {f"mask_{side}": visible, f"bias_{side}": bias}
        sizes = {f"q_{side}": (Hk * group, queries, D), f"k_{other}": (Hk, keys, D)}
        sizes[f"v_{other}"] = (Hk, keys, draw(st.one_of(st.just(D), _depths)))
        for name, size in sizes.items():
            inputs[name] = _operand(draw, (B, *size), generator, dtype, graded)
    return {**inputs, "dropout_p": draw(_dropouts)}


@st.composite
def cross_attention(draw: Callable[..., Any]) -> Inputs:
    """One to four sources, of any length, each with a mask and a bias or none."""
    B, Hk, group = draw(st.sampled_from([1, 2, 2, 3, 0])), draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    L, D, Dv = draw(_lengths), draw(_depths), draw(_depths)
    generator, dtype, graded = _random(draw)
    sources = []
    for _ in range(draw(st.sampled_from([1, 2, 2, 3, 4]))):
        S = draw(_lengths)
        key, value = (_operand(draw, (B, Hk, S, depth), generator, dtype, graded) for depth in (D, Dv))
        sources.append((key, value, *_visible_and_bias(draw, (B, Hk * group, L, S), generator)))
    return {
        "query": _operand(draw, (B, Hk * group, L, D), generator, dtype, graded),
        "sources": sources,
        "scale": draw(st.sampled_from([None, None, 0.7 * D**-0.5, -(D**-0.5)])),
        "dropout_p": draw(_dropouts),
        "return_lse": True,
    }


def _random(draw: Callable[..., Any]) -> tuple[torch.Generator, torch.dtype, bool]:
    return torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1))), draw(_dtypes), draw(st.booleans())


def _operand(
    draw: Callable[..., Any], shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype, graded: bool
) -> Tensor:
    return draw(laid_out(torch.randn(shape, generator=generator).to(dtype))).requires_grad_(graded)


def _visible_and_bias(draw: Callable[..., Any], shape: tuple[int, int, int, int], generator: torch.Generator) -> Any:
    visible = draw(st.one_of(st.none(), mask(shape), _bool_or_float(shape, generator)))
    return visible, draw(
        st.one_of(st.none(), st.none(), _dense_bias(shape, generator), _relative_bias(shape, generator))
    )
