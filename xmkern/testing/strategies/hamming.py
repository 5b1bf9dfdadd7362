"""Codes and queries of Hamming search."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from xmkern.testing.strategies.layout import Inputs, strided

# Around the widths and counts at which kernels change their ways.
_bytes = st.one_of(st.integers(1, 40), st.sampled_from([64, 127, 128, 512]))
_counts = st.one_of(st.integers(0, 20), st.sampled_from([63, 64, 255, 256, 257, 511, 513, 1100]))
_queries = st.one_of(st.integers(0, 5), st.sampled_from([11, 12, 13, 16, 17, 40]))


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
