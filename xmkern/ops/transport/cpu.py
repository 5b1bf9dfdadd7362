"""Launches the C++ kernel: makes the memory, passes addresses and strides."""

import torch
from torch import Tensor

from xmkern import native


def refuses(cost: Tensor, *args: object) -> str | None:
    if not cost.is_cpu:
        return f"the tensors are on {cost.device}"
    if cost.dtype != torch.float32:
        return f"the kernel takes float32, not {cost.dtype}"
    return native.why_missing()


def transport_plan(
    cost: Tensor, row_mask: Tensor, column_mask: Tensor, beta: float, iterations: int, inner: int
) -> Tensor:
    plan = torch.empty(cost.shape, device="cpu")
    if cost.stride(2) != 1:
        cost = cost.contiguous()
    row_mask, column_mask = row_mask.contiguous(), column_mask.contiguous()
    native.module().transport.plan(
        tuple(cost.shape),
        cost.data_ptr(),
        cost.stride()[:2],
        row_mask.data_ptr(),
        column_mask.data_ptr(),
        plan.data_ptr(),
        beta,
        iterations,
        inner,
        torch.get_num_threads(),
    )
    return plan
