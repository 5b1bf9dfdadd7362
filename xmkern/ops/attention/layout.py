"""How tensors of attention lie in memory: what it returns has heads innermost where the input has them so."""

import torch
from torch import Tensor


def empty_like_query(query: Tensor, depth: int) -> Tensor:
    """An uninitialised [B, H, L, depth] in the memory order of ``query`` [B, H, L, D].

    A query that is a [B, L, H, D] tensor seen through ``transpose(1, 2)`` gives such a view again, so that the heads
    merge without a copy; any other gives a contiguous tensor. Gradients are allocated by the same rule, each like its
    input.
    """
    batch, heads, length, query_depth = query.shape
    if depth == query_depth and query.is_contiguous():
        return torch.empty_like(query)  # as below, in a shorter time
    # A query whose last axis is not dense is copied by the kernels, and the copy is contiguous.
    if query.stride(3) == 1 and query.stride(1) < query.stride(2):
        return query.new_empty((batch, length, heads, depth)).transpose(1, 2)
    return query.new_empty((batch, heads, length, depth))


def strides_of(x: Tensor) -> list[int]:
    """Strides with 0 for the axes that do not vary."""
    return [0 if size == 1 else stride for size, stride in zip(x.shape, x.stride(), strict=True)]
