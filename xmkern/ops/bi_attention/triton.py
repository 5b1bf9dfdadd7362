"""Launches the Triton kernels of attention both ways: picks the tiles, makes the memory. Triton is imported by the
first call. The kernels do one side; the other side is the same call with the sides in each other's place.
"""

from typing import Any

import torch
from torch import Tensor

from xmkern.ops import gpu, tuning
from xmkern.ops.attention.layout import empty_like_query
from xmkern.ops.bi_attention import reference
from xmkern.ops.gpu import cdiv, power_of_two

_FAR = 1 << 30  # rows are counted in 32 bits


def refuses(a: Tensor, b: Tensor, *args: Any) -> str | None:
    """Why these arguments of ``bi_attention`` cannot be served, or None."""
    if max(a.shape[2], b.shape[2]) >= _FAR:
        return f"there are {_FAR} or more rows"
    return gpu.refuses(a)


def bi_attention(
    a: Tensor,
    b: Tensor,
    v_a: Tensor,
    v_b: Tensor,
    mask_a: Tensor | None,
    mask_b: Tensor | None,
    scale: float,
    tanh: bool,
    softmax: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if a.numel() == 0 or b.numel() == 0:
        return reference.bi_attention(a, b, v_a, v_b, mask_a, mask_b, scale, tanh, softmax)
    out_a, out_b = empty_like_query(a, v_b.shape[3]), empty_like_query(b, v_a.shape[3])
    lse_a, lse_b = (a.new_empty(x.shape[:3] if softmax else 0, dtype=torch.float32) for x in (a, b))
    with gpu.on(a):
        _forward(a, b, v_b, mask_a, mask_b, out_a, lse_a, scale, tanh, softmax)
        _forward(b, a, v_a, mask_b, mask_a, out_b, lse_b, scale, tanh, softmax)
    return out_a, out_b, lse_a, lse_b


def bi_attention_backward(
    grad_out_a: Tensor,
    grad_out_b: Tensor,
    a: Tensor,
    b: Tensor,
    v_a: Tensor,
    v_b: Tensor,
    mask_a: Tensor | None,
    mask_b: Tensor | None,
    out_a: Tensor,
    out_b: Tensor,
    lse_a: Tensor,
    lse_b: Tensor,
    scale: float,
    tanh: bool,
    softmax: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if a.numel() == 0 or b.numel() == 0:
        return tuple(torch.zeros_like(x) for x in (a, b, v_a, v_b))  # type: ignore[return-value]
    sums: list[tuple[Tensor, ...]] = [(), ()]
    if softmax:
        sums = [
            (lse.contiguous(), (grad.float() * out.float()).sum(3).contiguous())
            for lse, grad, out in ((lse_a, grad_out_a, out_a), (lse_b, grad_out_b, out_b))
        ]
    side_a, side_b = (a, v_a, grad_out_a, mask_a, sums[0]), (b, v_b, grad_out_b, mask_b, sums[1])
    with gpu.on(a):
        grad_a, grad_v_a = _gradients(side_a, side_b, scale, tanh, softmax)
        grad_b, grad_v_b = _gradients(side_b, side_a, scale, tanh, softmax)
    return grad_a, grad_b, grad_v_a, grad_v_b


def _forward(
    x: Tensor,
    y: Tensor,
    w: Tensor,
    x_mask: Tensor | None,
    y_mask: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scale: float,
    tanh: bool,
    softmax: bool,
) -> None:
    from xmkern.ops.bi_attention import triton_kernels as kernels

    x, y, w = (_dense(each) for each in (x, y, w))
    batches, heads, count, depth = x.shape
    unit = _unit(x, y, w, out)
    tiles = _tiles("forward", x, y, w)
    gpu.launch(
        kernels.forward_kernel, batches * heads * cdiv(count, tiles["ROWS"]) * cdiv(w.shape[3], tiles["DEPTH"]),
        _operand(x, unit), _operand(y, unit), _operand(w, unit), _mask(x_mask), _mask(y_mask),
        _operand(out, unit), lse, scale,
        (heads, count, y.shape[2], depth // unit, w.shape[3] // unit),
        TANH=tanh, SOFTMAX=softmax, EVEN=depth % tiles["CHUNK"] == 0, UNIT=unit,
        PRECISION=gpu.precision(x.dtype), **tiles,
    )  # fmt: skip


def _gradients(own: Any, other: Any, scale: float, tanh: bool, softmax: bool) -> tuple[Tensor, Tensor]:
    from xmkern.ops.bi_attention import triton_kernels as kernels

    (x, v, g, x_mask, x_sums), (y, w, h, y_mask, y_sums) = own, other
    grad_x, grad_v = empty_like_query(x, x.shape[3]), empty_like_query(v, v.shape[3])
    x, v, g, y, w, h = (_dense(each) for each in (x, v, g, y, w, h))
    batches, heads, count, depth = x.shape
    unit = _unit(x, v, g, y, w, h, grad_x, grad_v)
    tiles = _tiles("gradient", x, y, x if depth > v.shape[3] else v)
    depths = (depth, v.shape[3], w.shape[3])
    gpu.launch(
        kernels.gradient_kernel, batches * heads * cdiv(count, tiles["ROWS"]) * cdiv(max(depths[:2]), tiles["DEPTH"]),
        *(_operand(each, unit) for each in (x, y, v, w, g, h)), _mask(x_mask), _mask(y_mask), x_sums, y_sums,
        _operand(grad_x, unit), _operand(grad_v, unit), scale,
        (heads, count, y.shape[2], *(each // unit for each in depths)),
        TANH=tanh, SOFTMAX=softmax, EVEN=all(each % tiles["CHUNK"] == 0 for each in depths), UNIT=unit,
        PRECISION=gpu.precision(x.dtype), **tiles,
    )  # fmt: skip
    return grad_x, grad_v


def _tiles(kernel: str, x: Tensor, y: Tensor, w: Tensor) -> dict[str, int]:
    """Rows of x and of y, numbers at once of an inner product (CHUNK) and of what is summed up (DEPTH): the products
    before it are made again for each part of the depth."""
    size, depth = x.element_size(), max(16, power_of_two(w.shape[3]))
    row = tuning.chosen(f"bi_attention.{kernel}", gpu.chip_of(x.device), size=size, depth=depth)
    return {
        "ROWS": min(row["rows"], max(16, power_of_two(x.shape[2]))),
        "COLUMNS": min(row["columns"], max(16, power_of_two(y.shape[2]))),
        "CHUNK": min(row["chunk"], max(16, power_of_two(x.shape[3]))),
        "DEPTH": min(row["part"], depth),
        "num_warps": row["warps"],
        "num_stages": row["stages"],
    }


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _unit(*operands: Tensor) -> int:
    """What depths and strides divide by, 8 or 1: the compiler is told, and reads rows in vectors."""
    return 1 if any(n % 8 for x in operands for n in (x.shape[3], *x.stride()[:3])) else 8


def _operand(x: Tensor, unit: int) -> tuple[Any, ...]:
    return x, *(stride // unit for stride in x.stride()[:3])


def _mask(mask: Tensor | None) -> tuple[Any, ...]:
    if mask is None:
        return ()
    mask = mask if mask.stride(1) == 1 else mask.contiguous()
    return mask, mask.stride(0)
