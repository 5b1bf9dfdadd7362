"""Optimal transport by inexact proximal point iterations (Xie et al., 2018) in plain PyTorch."""

import torch
from torch import Tensor


def transport_plan(
    cost: Tensor, row_mask: Tensor, column_mask: Tensor, beta: float, iterations: int, inner: int
) -> Tensor:
    """cost [B, T, R], what of its rows [B, T] and columns [B, R] takes part -> the plan [B, T, R]"""
    rows, columns = (x.sum(1, keepdim=True).to(cost.dtype) for x in (row_mask, column_mask))
    cost = cost.masked_fill(~(row_mask[:, :, None] & column_mask[:, None]), torch.inf)
    # A factor common to a row of the kernel is made good by delta: that of the greatest keeps rows from underflowing.
    least = cost.amin(2, keepdim=True) if cost.numel() else cost
    kernel = ((least - cost) / beta).exp().masked_fill(cost == torch.inf, 0)
    plan = torch.ones_like(cost)
    sigma = _inverse(columns).expand(-1, cost.shape[2])
    for _ in range(iterations):
        product = kernel * plan
        for _ in range(inner):
            delta = _inverse(rows * (product @ sigma[:, :, None])[..., 0])
            sigma = _inverse(columns * (delta[:, None] @ product)[:, 0])
        plan = delta[:, :, None] * product * sigma[:, None]
    return plan


def _inverse(x: Tensor) -> Tensor:
    """1 / x; 0 where x is nothing, because a token takes no part or all that could reach it has underflowed."""
    return torch.where(x < torch.finfo(x.dtype).tiny, 0, 1 / x)
