"""Arguments of a linear layer's product."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

from xmkern.testing.strategies.layout import Inputs, strided

# On both sides of the kernel's groups of rows, strips of columns and stretches of the depth.
_rows = st.sampled_from([0, 1, 2, 7, 13, 32, 33, 48, 49, 100])
_columns = st.sampled_from([0, 1, 5, 16, 31, 33, 96, 257, 300])
_depths = st.sampled_from([0, 1, 3, 16, 100, 128, 129, 300, 1030])


@st.composite
def linear(draw: Callable[..., Any]) -> Inputs:
    """Sizes around those of the kernel's blocks, rows and weights in several layouts, with a bias and without."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    rows, columns, depth = draw(_rows), draw(_columns), draw(_depths)
    graded = draw(st.booleans())
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    x, weight = strided(draw, tensor(rows, depth)), strided(draw, tensor(columns, depth))
    if draw(st.booleans()):
        x = x.unflatten(0, (draw(st.sampled_from([1, rows])) or 1, -1)) if rows else x[None]
    return {
        "x": x.requires_grad_(graded),
        "weight": weight.requires_grad_(graded),
        "bias": draw(st.sampled_from([None, tensor(columns).requires_grad_(graded)])),
    }
