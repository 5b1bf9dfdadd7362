"""Attention over several sources, and both ways by one matrix."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import xmkern.functional as xf
from benchmarks.gpu.cases import BACKEND, Case, Inputs, compiles, normal, sized, spelled


def cases() -> Iterator[Case]:
    for dtype in (torch.bfloat16, torch.float32):
        yield both_ways((64, 196, 26, 512), dtype)
    yield of_sources((16, 16, 1024, 77, 64), torch.bfloat16)


def eager_both(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    s = a @ b.mT * a.shape[-1] ** -0.5
    return s.softmax(-1) @ b, s.mT.softmax(-1) @ a


def both_ways(shape: tuple[int, int, int, int], dtype: torch.dtype) -> Case:
    def inputs(size: str) -> Inputs:
        B, L, S, D = sized(shape, size, (2, 101, 13, 72))
        return {"a": normal(B, 1, L, D, dtype=dtype), "b": normal(B, 1, S, D, dtype=dtype)}

    def ours(a: Tensor, b: Tensor, backend: str = BACKEND) -> Any:
        return xf.bi_attention(a, b, a, b, backend=backend)

    def fused(a: Tensor, b: Tensor) -> Any:
        return scaled_dot_product_attention(a, b, b), scaled_dot_product_attention(b, a, a)

    B, L, S, D = shape
    return Case(
        "attention both ways", spelled(shape), dtype, inputs,
        {"xmkern": ours, "eager": eager_both, "sdpa twice": fused, **compiles(eager_both)},
        lambda **given: ours(**given, backend="reference"),
        operations=6.0 * B * L * S * D, bytes=2.0 * B * (L + S) * D * dtype.itemsize, backward=10 / 3,
    )  # fmt: skip


def of_sources(shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> Case:
    def inputs(size: str) -> Inputs:
        B, H, L, T, D = sized(shape, size, (2, 2, 101, 13, 64))
        return {k: normal(B, H, n, D, dtype=dtype)
                for k, n in (("query", L), ("key", L), ("value", L), ("text_key", T), ("text_value", T))}  # fmt: skip

    def ours(query: Tensor, key: Tensor, value: Tensor, text_key: Tensor, text_value: Tensor, backend: str = BACKEND):
        return xf.cross_attention(query, [(text_key, text_value), (key, value)], backend=backend)

    def joined(query: Tensor, key: Tensor, value: Tensor, text_key: Tensor, text_value: Tensor) -> Tensor:
        return scaled_dot_product_attention(
            query, torch.cat([text_key, key], dim=2), torch.cat([text_value, value], dim=2)
        )

    B, H, L, T, D = shape
    return Case(
        "text beside an image", spelled(shape), dtype, inputs, {"xmkern": ours, "sdpa of joined keys": joined},
        lambda **given: ours(**given, backend="reference"),
        operations=4.0 * B * H * L * (L + T) * D, bytes=2.0 * B * H * (2 * L + T) * D * dtype.itemsize,
    )  # fmt: skip
