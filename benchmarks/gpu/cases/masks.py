"""Attention with masks that are computed, and with biases that are learned."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

import xmkern.functional as xf
from benchmarks.gpu.cases import BACKEND, DEVICE, Case, Inputs, normal, sized, spelled
from benchmarks.gpu.cases.peers import everyone, visible
from xmkern import masks

Shape = tuple[int, int, int, int]  # B, H, L, D


def cases() -> Iterator[Case]:
    yield case("learned bias", (8, 16, 1024, 64), None, None, bias=True, compiled=True)
    prefix = lambda L: masks.prefix(torch.tensor([L // 4], device=DEVICE))  # noqa: E731
    yield case("prefix", (8, 16, 2048, 64), prefix, lambda L: lambda b, h, i, j: (j <= i) | (j < L // 4))
    rows = lambda L: masks.axial(256, 32, 32, "row") if L == 1280 else masks.axial(L - 12, 3, 4, "row")  # noqa: E731
    yield case("DALL-E, axial rows", (8, 16, 1280, 64), rows, None)
    yield case("DALL-E, axial columns", (8, 16, 1280, 64), columns, None)
    yield case("key lengths", (16, 12, 512, 64), lengths, None)
    yield case("learned bias, short", (64, 12, 128, 64), None, None, bias=True)
    band = lambda L: masks.band(256, 0)  # noqa: E731
    yield case(
        "window of 256",
        (2, 16, 8192, 64),
        band,
        lambda L: lambda b, h, i, j: (j <= i) & (i - j <= 256),
        share=257 / 8192,
    )


def columns(L: int) -> masks.Mask:
    return masks.axial(256, 32, 32, "column") if L == 1280 else masks.axial(L - 12, 3, 4, "column")


def lengths(L: int) -> masks.Mask:
    return masks.key_lengths(torch.linspace(L // 2, L, 16 if L == 512 else 2, device=DEVICE).long())


def case(
    name: str,
    shape: Shape,
    mask: Callable[[int], masks.Mask] | None,
    sees: Callable[[int], Callable[..., Tensor]] | None,
    bias: bool = False,
    compiled: bool = False,
    share: float | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Case:
    """mask, sees: of so many queries, ours and FlexAttention's. share: of the pairs that are visible."""
    mask = None if mask is None else cache(mask)  # made once, as a program would

    def inputs(size: str) -> Inputs:
        B, H, L, D = sized(shape, size, (2, 2, min(shape[2], 333), shape[3]))
        given: Inputs = {k: normal(B, H, L, D, dtype=dtype) for k in ("query", "key", "value")}
        if bias:
            given["bias"] = normal(1, H, L, L, dtype=torch.float32)
        if mask is not None:
            given["seen"] = visible(mask(L), given["query"], given["key"])
        return given

    def ours(query: Tensor, key: Tensor, value: Tensor, backend: str = BACKEND, **rest: Any) -> Any:
        made = None if mask is None else mask(query.shape[2])
        return xf.attention(query, key, value, made, bias=rest.get("bias"), backend=backend)

    B, H, L, D = shape
    if share is None:
        share = 1.0 if mask is None else _share(mask(L), L)
    others = everyone(False, sees, False, compiled or sees is not None, B * H * L * L)
    if sees is None and not bias:
        others = {k: call for k, call in others.items() if k != "flex"}
    return Case(
        name, spelled(shape), dtype, inputs, {"xmkern": ours, **others},
        lambda **given: ours(**given, backend="reference"),
        operations=4.0 * B * H * L * L * D * share, bytes=4.0 * B * H * L * D * 2 + 4.0 * H * L * L * bias,
    )  # fmt: skip


def _share(mask: masks.Mask, L: int) -> float:
    """Of pairs that are visible, from every 16th query."""
    seen = mask.to_dense(16 if L == 512 else 1, 1, L, L)
    return float(seen[..., ::16, :].float().mean())
