"""Attention without a mask, or a causal one: long sequences, short cross-modal ones, one query."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import xmkern.functional as xf
from benchmarks.gpu.cases import BACKEND, BOTH, FORWARD, Case, Inputs, normal, sized, spelled
from benchmarks.gpu.cases.peers import everyone
from xmkern import masks

Shape = tuple[int, int, int, int, int]
# B, H, L, S, D; causal; whether those take part that must be compiled.
LONG: list[tuple[str, Shape, bool, bool]] = [
    ("plain", (16, 16, 1024, 1024, 64), False, True),
    ("causal", (16, 16, 1024, 1024, 64), True, True),
    ("plain", (2, 16, 4096, 4096, 128), False, False),
    ("causal", (2, 16, 4096, 4096, 128), True, True),
    ("causal", (4, 16, 4096, 4096, 64), True, False),
    ("plain", (1, 16, 8192, 8192, 64), False, False),
    ("causal", (1, 16, 16384, 16384, 128), True, False),
]
SHORT: list[tuple[str, Shape, bool, bool]] = [
    ("CLIP image", (256, 12, 50, 50, 64), False, True),
    ("CLIP text, causal", (256, 8, 77, 77, 64), True, False),
    ("ViLBERT, text to regions", (256, 8, 36, 20, 128), False, False),
    ("ViLT", (64, 12, 240, 240, 64), False, False),
    ("diffusion, cross", (8, 8, 4096, 77, 40), False, False),
]


def cases() -> Iterator[Case]:
    for name, shape, causal, compiled in LONG[:4] + SHORT + LONG[4:]:
        yield case(name, shape, causal, compiled, torch.bfloat16)
    yield case("decoding", (64, 32, 1, 8192, 128), False, False, torch.bfloat16, (FORWARD,))
    for dtype in (torch.float16, torch.float32):
        yield case("plain", (16, 16, 1024, 1024, 64), False, False, dtype)


def case(
    name: str,
    shape: Shape,
    causal: bool,
    compiled: bool,
    dtype: torch.dtype,
    passes: tuple[str, ...] = (FORWARD, BOTH),
) -> Case:
    def inputs(size: str) -> Inputs:
        B, H, L, S, D = sized(shape, size, odd(shape))
        return {k: normal(B, H, n, D, dtype=dtype) for k, n in (("query", L), ("key", S), ("value", S))}

    def ours(query: Tensor, key: Tensor, value: Tensor, backend: str = BACKEND) -> Any:
        return xf.attention(query, key, value, masks.causal() if causal else None, backend=backend)

    B, H, L, S, D = shape
    sees = (lambda L: lambda b, h, i, j: i >= j) if causal else None
    return Case(
        name, spelled(shape), dtype, inputs,
        {"xmkern": ours, **everyone(causal, sees, True, compiled, B * H * L * S)},
        lambda **given: ours(**given, backend="reference"),
        operations=4.0 * B * H * L * S * D * (0.5 if causal else 1.0),
        bytes=2.0 * B * H * (L + S) * D * dtype.itemsize, passes=passes,
    )  # fmt: skip


def odd(shape: Shape) -> Shape:
    _, _, L, S, D = shape
    return 2, 2, min(L, 333), min(S, 301) if L != S else min(S, 333), D
