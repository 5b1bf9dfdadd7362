"""Launches the C++ kernels: makes the memory, passes addresses and strides."""

from typing import Any

import torch
from torch import Tensor

from xmkern import native
from xmkern.ops.attention.layout import empty_like_query
from xmkern.ops.fresh import fresh

MAX_SIZE = 4096


def refuses(a: Tensor, b: Tensor, v_a: Tensor, v_b: Tensor, *args: object) -> str | None:
    if not a.is_cpu:
        return f"the tensors are on {a.device}"
    if a.dtype not in native.DTYPES:
        return f"the kernels take float32, bfloat16 and float16, not {a.dtype}"
    # What they keep of a matrix grows with the shorter side and these depths.
    for what, size in (("rows of the shorter side", min(a.size(2), b.size(2))), ("numbers a row", a.size(3))):
        if size > MAX_SIZE:
            return f"the kernels take up to {MAX_SIZE} {what}, not {size}"
    if v_a.size(3) > MAX_SIZE or v_b.size(3) > MAX_SIZE:
        return f"the kernels take up to {MAX_SIZE} numbers a row, not {max(v_a.size(3), v_b.size(3))}"
    return native.why_missing()


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
    out_a, out_b = (fresh(empty_like_query(x, value.size(3))) for x, value in ((a, v_b), (b, v_a)))
    lse_a, lse_b = (torch.empty(x.shape[:3] if softmax else 0, dtype=torch.float32, device="cpu") for x in (a, b))
    side_a, kept_a = _side(a, v_a, out_a, mask_a, lse_a)
    side_b, kept_b = _side(b, v_b, out_b, mask_b, lse_b)
    native.module().bi_attention.forward(
        *_problem(a, scale, tanh, softmax), *_long_first(side_a, side_b), torch.get_num_threads()
    )
    del kept_a, kept_b
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
    grads = [fresh(empty_like_query(x, x.size(3))) for x in (a, b, v_a, v_b)]
    side_a, kept_a = _side(a, v_a, out_a, mask_a, lse_a.contiguous())
    side_b, kept_b = _side(b, v_b, out_b, mask_b, lse_b.contiguous())
    kept_grad_a, grad_a = _operand(grad_out_a)
    kept_grad_b, grad_b = _operand(grad_out_b)
    grads_a = (_operand(grads[0])[1], _operand(grads[2])[1], grad_a)
    grads_b = (_operand(grads[1])[1], _operand(grads[3])[1], grad_b)
    both = (grads_a, grads_b) if _in_order(side_a, side_b) else (grads_b, grads_a)
    native.module().bi_attention.backward(
        *_problem(a, scale, tanh, softmax), *_long_first(side_a, side_b), *both, torch.get_num_threads()
    )
    del kept_a, kept_b, kept_grad_a, kept_grad_b
    return tuple(grads)  # type: ignore[return-value]


_Side = tuple[tuple[Any, ...], tuple[int, ...]]


def _problem(a: Tensor, scale: float, tanh: bool, softmax: bool) -> tuple[Any, ...]:
    return (a.size(0), a.size(1), a.size(3)), native.DTYPES[a.dtype], scale, tanh, softmax


def _side(x: Tensor, value: Tensor, out: Tensor, mask: Tensor | None, lse: Tensor) -> tuple[_Side, object]:
    """What the binding takes of one side, and the tensors that must outlive the call."""
    kept_x, x_numbers = _operand(x)
    kept_value, value_numbers = _operand(value)
    kept_out, out_numbers = _operand(out)
    mask = None if mask is None else mask.contiguous()
    numbers = (x.size(2), value.size(3), 0 if mask is None else mask.data_ptr(), lse.data_ptr())
    return ((x_numbers, value_numbers, out_numbers), numbers), (kept_x, kept_value, kept_out, mask, lse)


def _in_order(side_a: _Side, side_b: _Side) -> bool:
    """Whether a is the longer side. The kernels hold all of the shorter one."""
    return side_a[1][0] >= side_b[1][0]


def _long_first(side_a: _Side, side_b: _Side) -> tuple[Any, ...]:
    return (*side_a, *side_b) if _in_order(side_a, side_b) else (*side_b, *side_a)


def _operand(x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The tensor, or a copy whose last axis is dense; its address and the strides of the others."""
    if x.stride(-1) != 1:
        x = x.contiguous()
    return x, (x.data_ptr(), *x.stride()[:-1])


def refuses_pool(x: Tensor, *args: object) -> str | None:
    if not x.is_cpu:
        return f"the tensors are on {x.device}"
    if x.dtype not in native.DTYPES:
        return f"the kernels take float32, bfloat16 and float16, not {x.dtype}"
    return native.why_missing()


def additive_pool(
    x: Tensor, hidden: Tensor, guide: Tensor | None, weight: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    pooled = torch.empty(len(x), x.size(2), dtype=x.dtype, device="cpu")
    shares = torch.empty(x.shape[:2], dtype=torch.float32, device="cpu")
    call, kept = _pool(x, hidden, guide, weight, mask, pooled, shares)
    native.module().bi_attention.pool(*call, torch.get_num_threads())
    del kept
    return pooled, shares


def additive_pool_backward(
    grad_pooled: Tensor,
    grad_shares: Tensor,
    x: Tensor,
    hidden: Tensor,
    guide: Tensor | None,
    weight: Tensor,
    mask: Tensor | None,
    shares: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_x, grad_hidden = (fresh(torch.empty(each.shape, dtype=each.dtype, device="cpu")) for each in (x, hidden))
    one_guide = guide is not None and guide.size(1) == 1
    grad_guide = torch.empty(guide.shape if one_guide else 0, dtype=hidden.dtype, device="cpu")  # type: ignore[union-attr]
    grad_weight = torch.empty(weight.shape, dtype=weight.dtype, device="cpu")
    grad_pooled, grad_shares = grad_pooled.contiguous(), grad_shares.contiguous()
    call, kept = _pool(x, hidden, guide, weight, mask, grad_pooled, shares.contiguous())
    native.module().bi_attention.pool_backward(
        *call, grad_shares.data_ptr(), _operand(grad_x)[1], _operand(grad_hidden)[1],
        _operand(grad_guide)[1] if one_guide else _NOTHING, grad_weight.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    del kept
    return grad_x, grad_hidden, grad_guide, grad_weight


_NOTHING = (0, 0, 0)


def _pool(
    x: Tensor, hidden: Tensor, guide: Tensor | None, weight: Tensor, mask: Tensor | None, pooled: Tensor, shares: Tensor
) -> tuple[tuple[Any, ...], object]:
    """The arguments that both directions share, and the tensors that must outlive the call. pooled: or its gradient."""
    x, x_numbers = _operand(x)
    hidden, hidden_numbers = _operand(hidden)
    weight = weight.contiguous()
    mask = None if mask is None else mask.contiguous()
    guide_numbers: tuple[int, ...] = _NOTHING
    if guide is not None:
        guide, (address, batch, row) = _operand(guide)
        guide_numbers = (address, batch, row if guide.size(1) > 1 else 0)
    call = (
        (*x.shape, hidden.size(2)),
        native.DTYPES[x.dtype],
        x_numbers,
        hidden_numbers,
        guide_numbers,
        weight.data_ptr(),
        0 if mask is None else mask.data_ptr(),
        pooled.data_ptr(),
        shares.data_ptr(),
    )
    return call, (x, hidden, guide, weight, mask)
