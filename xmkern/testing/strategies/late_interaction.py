"""Arguments of late interaction: sizes about the edges of tiles, masks, ties, layouts.

Which token wins jumps with the tokens. Where gradients are wanted, similarities are exact in every dtype: products of
-1, 0 and 1, times a power of two for each sample. Many are equal, so that ties are settled too. Where a gradient would
be zero but for rounding, and eager PyTorch's by luck without, as with one column and with columns all alike, sizes are
at least two and samples differ in size.
"""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from xmkern.testing.strategies.layout import Inputs

_samples = st.one_of(st.integers(0, 4), st.sampled_from([1, 2, 3, 9]))
_tokens = st.one_of(st.integers(0, 6), st.sampled_from([11, 12, 13, 16, 17, 31, 32, 33, 49, 65, 130]))
_depths = st.one_of(st.integers(1, 20), st.sampled_from([32, 100, 256, 257, 320, 530]))


class _Draw:
    """What one example has in common: its dtype, its random numbers, whether gradients are wanted."""

    def __init__(self, draw: Callable[..., Any]) -> None:
        self.draw = draw
        self.dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
        self.graded = draw(st.booleans())
        self.generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))

    def side(self, samples: int, tokens: int, depth: int, alike: bool = True) -> tuple[Tensor, Tensor | None]:
        """Tokens of norms about 1, [samples, tokens, depth], and a mask; ``alike``: all samples may be the same."""
        if self.graded:
            size = 2.0 ** (torch.arange(samples) % 5 - depth.bit_length() // 2)
            x = size[:, None, None] * (self.integers(3, samples, tokens, depth) - 1)
        else:
            x = torch.randn(samples, tokens, depth, generator=self.generator) / depth**0.5
        return self._laid_out(x.to(self.dtype), alike).requires_grad_(self.graded), self._mask(samples, tokens)

    def integers(self, most: int, *size: int) -> Tensor:
        return torch.randint(0, most, size, generator=self.generator)

    def _mask(self, samples: int, tokens: int) -> Tensor | None:
        kind = self.draw(st.sampled_from(["none", "lengths", "random", "nothing"]))
        if kind == "none":
            return None
        if kind == "lengths":
            return torch.arange(tokens) < self.integers(tokens + 1, samples)[:, None]
        return torch.rand(samples, tokens, generator=self.generator) < (0.6 if kind == "random" else 0.0)

    def _laid_out(self, x: Tensor, alike: bool) -> Tensor:
        """The same values, as slices, transpositions and expansions lay them out."""
        layout = self.draw(st.sampled_from(["contiguous", "tokens outside", "sliced", "depth outside", "expanded"]))
        if layout == "tokens outside":
            return x.transpose(0, 1).contiguous().transpose(0, 1)
        if layout == "depth outside":
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        if layout == "sliced":  # without the class token, and its neighbours are NaN
            wide = x.new_full((x.shape[0], x.shape[1] + 1, x.shape[2] + 3), torch.nan)
            view = wide[:, 1:, 1 : 1 + x.shape[2]]
            view.copy_(x)
            return view
        if layout == "expanded" and alike and x.shape[0]:
            return x[:1].expand_as(x)
        return x


@st.composite
def max_similarity(draw: Callable[..., Any]) -> Inputs:
    """Empty and single axes, masks that hide all, of all dtypes, laid out in all ways."""
    own, D = _Draw(draw), draw(_depths)
    x, x_mask = own.side(draw(_samples), draw(_tokens), D)
    y, y_mask = own.side(draw(_samples), draw(_tokens), D)
    return {
        "x_tokens": x,
        "y_tokens": y,
        "x_mask": x_mask,
        "y_mask": y_mask,
        "reduction": draw(st.sampled_from(["mean", "sum"])),
        "both": draw(st.booleans()),
    }


@st.composite
def late_interaction_info_nce(draw: Callable[..., Any]) -> Inputs:
    """Both directions or one, offsets and left-out rows, smoothed labels; scores kept or made again."""
    own, D, symmetric = _Draw(draw), draw(_depths), draw(st.booleans())
    samples = _samples.filter(lambda size: size != 1)
    B = draw(samples)
    N = B if symmetric else draw(samples)
    x, x_mask = own.side(B, draw(_tokens), D, alike=False)
    y, y_mask = own.side(N, draw(_tokens), D, alike=False)
    labels: int | Tensor | None = own.integers(max(N, 1), B)
    if B <= N and draw(st.booleans()):
        labels = draw(st.integers(0, N - B))
    elif not N or draw(st.booleans()):
        labels = torch.where(own.integers(3, B) == 0, own.integers(N + 1, B), -100)
    scale = draw(st.sampled_from([1.0, 14.3]))
    return {
        "x_tokens": x,
        "y_tokens": y,
        "logit_scale": torch.tensor(scale, requires_grad=own.graded) if draw(st.booleans()) else scale,
        "x_mask": x_mask,
        "y_mask": y_mask,
        "labels": labels,
        "symmetric": symmetric,
        "label_smoothing": draw(st.sampled_from([0.0, 0.0, 0.1])),
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
        # Rounded unit tokens are off by more than eager PyTorch's loss may be, by luck.
        "normalize": not own.graded and own.dtype == torch.float32 and draw(st.booleans()),
        "recompute": draw(st.sampled_from([None, False, True])),
    }
