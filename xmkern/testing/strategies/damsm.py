"""Arguments of matching words and regions."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from xmkern.testing.strategies.layout import Inputs

_words = st.one_of(st.integers(0, 5), st.sampled_from([1, 12, 18, 40]))
_regions = st.one_of(st.integers(0, 5), st.sampled_from([1, 16, 17, 36, 49, 64, 130, 289]))
# Among vectors of a few numbers cosines near 1 are common, and what little gradient they have is mostly rounding.
_depths = st.one_of(st.integers(8, 24), st.sampled_from([32, 64, 100, 256, 300, 520]))


@st.composite
def damsm_scores(draw: Callable[..., Any]) -> Inputs:
    """Empty and single axes, captions without words, all dtypes and layouts, even and uneven attention."""
    counts = st.sampled_from([0, 1, 3, 4, 7])
    N, M, T, R, D = draw(counts), draw(counts), draw(_words), draw(_regions), draw(_depths)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    # One or two scores in half precision may be exact in eager PyTorch, by luck; many are not.
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])) if N * M >= 9 else torch.float32
    graded = draw(st.booleans())
    # From shares of regions that hardly differ to shares of all or nothing; where these meet a large gamma1, the
    # rounding of a score decides which region a word attends to.
    size, gamma1 = draw(st.sampled_from([(0.1, 5.0), (0.1, 20.0), (0.5, 5.0), (0.5, -3.0), (1.0, 4.0), (1.0, 1.0)]))

    def tensor(*shape: int) -> Tensor:
        x = (size * torch.randn(shape, generator=generator)).to(dtype)
        return draw(_laid_out(x)).requires_grad_(graded)

    lengths = torch.randint(draw(st.sampled_from([0, 0, T])), T + 1, (N,), generator=generator)
    return {
        "words": tensor(N, T, D),
        "regions": tensor(M, R, D),
        "lengths": lengths.to(draw(st.sampled_from([torch.int64, torch.int32]))),
        "gamma1": gamma1,
        "gamma2": draw(st.sampled_from([5.0, 1.0, 20.0])),
    }


@st.composite
def _laid_out(draw: Callable[..., Any], x: Tensor) -> Tensor:
    """[items, rows, D]: the same values, as encoders, slices and expansions lay them out."""
    layout = draw(st.sampled_from(["contiguous", "depth outside", "sliced", "expanded"]))
    if layout == "depth outside":  # the channels of a feature map, the hidden states of a recurrent network
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "sliced":
        wide = x.new_full((x.shape[0] * 2, x.shape[1] + 2, x.shape[2] + 3), torch.nan)
        view = wide[::2, 1 : 1 + x.shape[1], 1 : 1 + x.shape[2]]
        view.copy_(x)
        return view
    if layout == "expanded" and x.shape[0]:
        return x[:1].expand_as(x)
    return x
