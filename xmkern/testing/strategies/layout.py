"""What the strategies share: names, and layouts of tensors in memory."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

Inputs = dict[str, Any]


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
