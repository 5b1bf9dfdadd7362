"""Arguments of alignment by optimal transport."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from xmkern.testing.strategies.layout import Inputs

_lengths = st.one_of(st.integers(0, 6), st.sampled_from([1, 15, 16, 17, 33, 50, 100]))


@st.composite
def optimal_transport_alignment(draw: Callable[..., Any]) -> Inputs:
    """Empty and single axes, samples that are all padding, all dtypes."""
    B, R, T = draw(st.sampled_from([0, 1, 2, 5])), draw(_lengths), draw(_lengths)
    D = draw(st.sampled_from([2, 5, 16, 40, 100]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    graded = draw(st.booleans())

    def mask(length: int) -> Tensor | None:
        share = draw(st.sampled_from([None, 0.0, 0.6, 0.9]))
        return None if share is None else torch.rand(B, length, generator=generator) < share

    def tokens(length: int, seen: Tensor | None) -> Tensor:
        x = torch.randn(B, length, D, generator=generator)
        if seen is not None:  # what lies in the padding must not matter
            x[~seen] = torch.nan
        if draw(st.booleans()):
            x = x.transpose(1, 2).contiguous().transpose(1, 2)
        return x.to(dtype).requires_grad_(graded)

    x_mask, y_mask = mask(R), mask(T)
    return {
        "x_tokens": tokens(R, x_mask),
        "y_tokens": tokens(T, y_mask),
        "x_mask": x_mask,
        "y_mask": y_mask,
        "beta": draw(st.sampled_from([0.5, 0.5, 0.1, 2.0])),
        "iterations": draw(st.sampled_from([1, 5, 50])),
        "inner": draw(st.sampled_from([1, 1, 3])),
        "return_plan": draw(st.booleans()),
    }
