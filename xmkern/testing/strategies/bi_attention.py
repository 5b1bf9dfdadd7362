"""Arguments of attention both ways, and of co-attention that pools."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from xmkern.testing.strategies.attention import laid_out
from xmkern.testing.strategies.layout import Inputs

_lengths = st.one_of(st.integers(0, 9), st.sampled_from([1, 14, 16, 17, 26, 36, 48, 49, 64, 100, 130]))
_depths = st.one_of(st.integers(4, 20), st.sampled_from([32, 40, 64, 72, 100, 128, 256, 300]))
_dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


@st.composite
def bi_attention(draw: Callable[..., Any]) -> Inputs:
    """Empty and single axes, all affinities, masks, dtypes and layouts, with heads and without."""
    B, H, L, S, D = draw(st.sampled_from([1, 2, 2, 3, 0])), draw(st.integers(1, 3)), *(draw(_lengths) for _ in "LS"), 0
    D = draw(_depths)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    # One or two numbers in half precision may be exact in eager PyTorch, by luck; many are not.
    dtype = draw(_dtypes) if B * L * S > 8 else torch.float32
    graded, headless = draw(st.booleans()), draw(st.booleans())

    def operand(length: int, depth: int) -> Tensor:
        x = draw(laid_out(torch.randn(B, 1 if headless else H, length, depth, generator=generator).to(dtype)))
        return (x[:, 0] if headless else x).requires_grad_(graded)

    return {
        "a": operand(L, D),
        "b": operand(S, D),
        "v_a": operand(L, draw(_depths)),
        "v_b": operand(S, draw(_depths)),
        "mask_a": draw(_rows(B, L, generator)),
        "mask_b": draw(_rows(B, S, generator)),
        "affinity": draw(st.sampled_from(["dot", "tanh"])),
        "normalize": draw(st.sampled_from(["softmax", None])),
        "scale": draw(st.sampled_from([None, D**-0.5, -0.7 * D**-0.5])),
    }


@st.composite
def parallel_co_attention(draw: Callable[..., Any]) -> Inputs:
    """Empty and single axes, all masks and dtypes."""
    tensor, sizes = _tensors(draw)
    B, L, S, Da, Db, K = sizes
    D = draw(_depths)
    return {
        "a": tensor(B, L, Da),
        "b": tensor(B, S, Db),
        "affinity_a": tensor(B, L, D, size=D**-0.5),
        "affinity_b": tensor(B, S, D),
        "hidden_a": tensor(B, L, K),
        "hidden_b": tensor(B, S, K),
        "weight_a": tensor(K, size=K**-0.5),
        "weight_b": tensor(K, size=K**-0.5),
        "mask_a": draw(_rows(B, L, torch.Generator().manual_seed(L))),
        "mask_b": draw(_rows(B, S, torch.Generator().manual_seed(S))),
    }


@st.composite
def alternating_co_attention(draw: Callable[..., Any]) -> Inputs:
    """Empty and single axes, all masks and dtypes."""
    tensor, sizes = _tensors(draw)
    B, L, S, Da, Db, K = sizes
    return {
        "a": tensor(B, L, Da),
        "b": tensor(B, S, Db),
        "hidden": [tensor(B, L, K), tensor(B, S, K), tensor(B, L, K)],
        "guides": [tensor(K, Da, size=Da**-0.5), tensor(K, Db, size=Db**-0.5)],
        "weights": [tensor(K, size=K**-0.5) for _ in range(3)],
        "mask_a": draw(_rows(B, L, torch.Generator().manual_seed(L))),
        "mask_b": draw(_rows(B, S, torch.Generator().manual_seed(S))),
    }


def _tensors(draw: Callable[..., Any]) -> tuple[Callable[..., Tensor], tuple[int, ...]]:
    B, L, S = draw(st.sampled_from([1, 2, 3, 5, 0])), draw(_lengths), draw(_lengths)
    Da, Db, K = draw(_depths), draw(_depths), draw(_depths)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    # The weights of a few rows may be exact in eager PyTorch, by luck; many are not.
    dtype = draw(_dtypes) if min(B * L, B * S, K) >= 16 else torch.float32
    graded = draw(st.booleans())

    def tensor(*shape: int, size: float = 1.0) -> Tensor:
        x = (size * torch.randn(shape, generator=generator)).to(dtype)
        if len(shape) == 3:
            x = draw(laid_out(x[:, None]))[:, 0]
        return x.requires_grad_(graded)

    return tensor, (B, L, S, Da, Db, K)


@st.composite
def _rows(draw: Callable[..., Any], B: int, N: int, generator: torch.Generator) -> Tensor | None:
    """Which rows there are: flags [B, N] or lengths [B]; a batch element may have none."""
    kind = draw(st.sampled_from(["none", "flags", "lengths", "integers"]))
    if kind == "none":
        return None
    if kind == "flags":
        return torch.rand(B, N, generator=generator) < draw(st.sampled_from([0.1, 0.7]))
    lengths = torch.randint(0, N + 2, (B,), generator=generator)
    return lengths if kind == "lengths" else lengths.int()
