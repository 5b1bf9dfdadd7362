"""Launches the C++ kernel: makes the memory, passes addresses and strides."""

import torch
from torch import Tensor

from xmkern import native
from xmkern.ops.fresh import fresh
from xmkern.ops.linear.onednn import HALVES, torch_crawls

# So many rows are multiplied where the weight lies, which is read once (csrc/linear/kernels_few.cpp).
_FEW_ROWS = 32

# Address, stride, and whether it is columns that are dense.
_Matrix = tuple[int, int, bool]


def refuses(x: Tensor, y: Tensor, *args: object) -> str | None:
    if not (x.is_cpu and y.is_cpu):
        return f"the tensors are on {x.device} and {y.device}"
    if x.dtype not in native.DTYPES or y.dtype != x.dtype:
        return f"the kernel takes float32, bfloat16 or float16, not {x.dtype} and {y.dtype}"
    return native.why_missing()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    depth, columns = x.shape[-1], weight.shape[0]
    rows = x.flatten(0, -2)
    out = fresh(x.new_empty((*x.shape[:-1], columns)))
    if bias is not None:
        bias = bias.contiguous()
    _multiply(out, len(rows), columns, depth, rows, weight, bias)
    return out


def few_rows(x: Tensor, weight: Tensor) -> bool:
    """Whether rows are so few, and of a dtype that takes so few instructions, that the weight is read at full speed."""
    wide = x.dtype == torch.bfloat16 and (native.cpu_capability() or "").startswith("avx512")
    return (wide or x.dtype == torch.float32) and x.numel() <= _FEW_ROWS * weight.shape[1]


def linear_at_once(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """The arguments of :func:`linear`, where oneDNN does not serve them as fast."""
    if x.dtype in HALVES and not torch_crawls(x.dtype) and not few_rows(x, weight):
        return None
    made: Tensor | None = native.module().linear.forward_at_once(x, weight, bias, torch.get_num_threads())
    return made


def fit(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    fits: bool = native.module().linear.fit(x, weight, bias)
    return fits


def linear_backward(
    grad: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool, of_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    columns, depth = weight.shape
    grads, rows = grad.flatten(0, -2), x.flatten(0, -2)
    grad_x = fresh(grad.new_empty(x.shape if of_x else 0))
    grad_weight = fresh(grad.new_empty(weight.shape if of_weight else 0))
    if of_x:
        _multiply(grad_x, len(grads), depth, columns, grads, weight.t())
    if of_weight:
        _multiply(grad_weight, columns, depth, len(grads), grads.t(), rows.t())
    return grad_x, grad_weight, grads.sum(0) if of_bias else grad.new_empty(0)


def _multiply(
    out: Tensor, rows: int, columns: int, depth: int, left: Tensor, right: Tensor, bias: Tensor | None = None
) -> None:
    """left [rows, depth] times right [columns, depth] along the depth, and the bias, to out [rows, columns]"""
    if out.numel() == 0:
        return
    if depth == 0:
        out.copy_(out.new_zeros(1) if bias is None else bias)
        return
    copies: list[Tensor] = []
    native.module().linear.multiply(
        native.DTYPES[out.dtype],
        rows,
        columns,
        depth,
        _matrix(left, copies),
        _matrix(right, copies),
        0 if bias is None else bias.data_ptr(),
        out.data_ptr(),
        torch.get_num_threads(),
    )


def _matrix(x: Tensor, copies: list[Tensor]) -> _Matrix:
    """As it lies, or as a copy, which ``copies`` keeps until after the call."""
    if x.stride(1) == 1:
        return x.data_ptr(), x.stride(0), False
    if x.stride(0) == 1:
        return x.data_ptr(), x.stride(1), True
    copies.append(x.contiguous())
    return copies[-1].data_ptr(), x.shape[1], False
