"""Launches the C++ kernels: makes the memory, passes addresses and strides."""

from typing import Any

import torch
from torch import Tensor

from xmkern import native
from xmkern.ops.dropout import is_elsewhere, native_dropout
from xmkern.ops.epilogue.reference import sum_dtype
from xmkern.ops.fresh import fresh

_ACTIVATIONS = {"gelu": 0, "gelu_tanh": 1, "quick_gelu": 2, "relu": 3, "silu": 4}
_GATES = {None: 0, "tanh": 1, "sigmoid": 2}
_NOTHING = (0, 0, 0)
_NO_DROPOUT = (0, 0, 0.0)


def refuses(*args: Any) -> str | None:
    for x in args:
        if isinstance(x, Tensor) and x.dtype not in native.DTYPES and x.is_floating_point():
            return f"the kernels take float32, bfloat16 and float16, not {x.dtype}"
        if isinstance(x, Tensor) and not x.is_cpu:
            return f"the tensors are on {x.device}"
    return native.why_missing()


def add_norm(
    x: Tensor,
    residual: Tensor | None,
    linear_bias: Tensor | None,
    inner_weight: Tensor | None,
    inner_bias: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    inner: bool,
    outer: bool,
    keep_sum: bool,
    rms: bool,
    pb_relax: bool,
    eps: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = sum_dtype(x, residual)
    out = _empty(x, x.shape if outer else 0, dtype)
    kept = _empty(x, x.shape if keep_sum else 0, dtype)
    rows, columns = _shape(x)
    moments = _empty(x, (inner + outer, 2, rows))
    memory: list[Tensor] = []
    native.module().epilogue.add_norm(
        (rows, columns),
        (_rows(x, memory), _rows(residual, memory), *(_rows(y if y.numel() else None, memory) for y in (kept, out))),
        tuple(_vector(p, memory) for p in (linear_bias, inner_weight, inner_bias, weight, bias)),
        (inner, outer, rms, pb_relax, seed is not None),
        eps,
        moments.data_ptr(),
        _NO_DROPOUT if seed is None else native_dropout(dropout_p, seed),
        torch.get_num_threads(),
    )
    return out, kept, moments


def add_norm_at_once(*args: Any) -> Any:
    """The arguments of :func:`add_norm`, and perhaps False: the moments are not wanted."""
    x, residual, eps, dropout_p, seed, *unwanted = *args[:2], *args[12:]
    if is_elsewhere(seed):
        return None
    dropout = None if seed is None else native_dropout(dropout_p, seed)
    call = x, residual, args[2:7], args[7:12], eps, dropout, not unwanted
    return native.module().epilogue.add_norm_at_once(*call, torch.is_grad_enabled(), torch.get_num_threads())


def add_norm_backward_at_once(*args: Any) -> Any:
    """The arguments of :func:`add_norm_backward`."""
    inner, rms, residual_grad, dropout_p, seed = args[11:]
    if is_elsewhere(seed):
        return None
    dropout = None if seed is None else native_dropout(dropout_p, seed)
    call = *args[:6], args[6:11], inner, rms, residual_grad, dropout
    return native.module().epilogue.add_norm_backward_at_once(*call, torch.get_num_threads())


def add_norm_backward(
    grad_out: Tensor | None,
    grad_sum: Tensor | None,
    x: Tensor | None,
    residual: Tensor | None,
    kept_sum: Tensor | None,
    moments: Tensor,
    linear_bias: Tensor | None,
    inner_weight: Tensor | None,
    inner_bias: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    inner: bool,
    rms: bool,
    residual_grad: bool,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    like = grad_out if grad_out is not None else grad_sum
    assert like is not None
    parameters = [linear_bias, inner_weight, inner_bias, weight, bias]
    grad_x = _empty(like, like.shape, like.dtype if x is None else x.dtype)
    grad_residual = _empty(like, like.shape if residual_grad else 0, like.dtype if residual is None else residual.dtype)
    of_parameters = _empty(like, (sum(p is not None for p in parameters), like.shape[-1]))
    memory = [moments.contiguous()]
    native.module().epilogue.add_norm_backward(
        _shape(like),
        (_rows(x, memory), _rows(residual, memory), _rows(kept_sum, memory), _NOTHING),
        tuple(_vector(p, memory) for p in parameters),
        (inner, grad_out is not None, rms, False, seed is not None),
        0.0,
        memory[0].data_ptr(),
        _NO_DROPOUT if seed is None else native_dropout(dropout_p, seed),
        (
            *(_rows(grad, memory) for grad in (grad_out, grad_sum, grad_x)),
            _rows(grad_residual if residual_grad else None, memory),
        ),
        of_parameters.data_ptr(),
        torch.get_num_threads(),
    )
    return grad_x, grad_residual, of_parameters


def gated_residual(
    x: Tensor, residual: Tensor, gate: Tensor | None, bias: Tensor | None, activation: str | None
) -> Tensor:
    out = _empty(x, x.shape, sum_dtype(x, residual))
    memory: list[Tensor] = []
    native.module().epilogue.gated_residual(
        _shape(x),
        *(_rows(y, memory) for y in (x, residual, out)),
        *_gate(gate, memory),
        _vector(bias, memory),
        _GATES[activation],
        torch.get_num_threads(),
    )
    return out


def gated_residual_at_once(
    x: Tensor, residual: Tensor, gate: Tensor | None, bias: Tensor | None, activation: str | None
) -> Any:
    return native.module().epilogue.gated_residual_at_once(
        x, residual, gate, bias, _GATES[activation], torch.is_grad_enabled(), torch.get_num_threads()
    )


def gated_residual_backward_at_once(
    grad: Tensor, x: Tensor, gate: Tensor | None, bias: Tensor | None, activation: str | None
) -> Any:
    return native.module().epilogue.gated_residual_backward_at_once(
        grad, x, gate, bias, _GATES[activation], torch.get_num_threads()
    )


def gated_residual_backward(
    grad: Tensor, x: Tensor, gate: Tensor | None, bias: Tensor | None, activation: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = fresh(x.new_empty(x.shape))
    dense = gate is not None and gate.dim() > 1
    grad_gate = _empty(x, x.shape if dense else 0, x.dtype if gate is None else gate.dtype)
    parameters = (gate is not None and not dense) + (bias is not None)
    of_parameters = _empty(x, (parameters, x.shape[-1]))
    memory: list[Tensor] = []
    native.module().epilogue.gated_residual_backward(
        _shape(x),
        _rows(x, memory),
        *_gate(gate, memory),
        _vector(bias, memory),
        _GATES[activation],
        _rows(grad, memory),
        _rows(grad_x, memory),
        _rows(grad_gate if dense else None, memory),
        of_parameters.data_ptr(),
        torch.get_num_threads(),
    )
    return grad_x, grad_gate, of_parameters


def bias_activation(x: Tensor, bias: Tensor | None, activation: str, gated: bool) -> Tensor:
    *lead, columns = x.shape
    out = fresh(x.new_empty((*lead, columns // 2 if gated else columns)))
    memory: list[Tensor] = []
    native.module().epilogue.bias_activation(
        _shape(out),
        _rows(x, memory),
        _rows(out, memory),
        _vector(bias, memory),
        _ACTIVATIONS[activation],
        gated,
        torch.get_num_threads(),
    )
    return out


def bias_activation_at_once(x: Tensor, bias: Tensor | None, activation: str, gated: bool) -> Any:
    return native.module().epilogue.bias_activation_at_once(
        x, bias, _ACTIVATIONS[activation], gated, torch.is_grad_enabled(), torch.get_num_threads()
    )


def bias_activation_backward_at_once(grad: Tensor, x: Tensor, bias: Tensor | None, activation: str, gated: bool) -> Any:
    return native.module().epilogue.bias_activation_backward_at_once(
        grad, x, bias, _ACTIVATIONS[activation], gated, torch.get_num_threads()
    )


def bias_activation_backward(
    grad: Tensor, x: Tensor, bias: Tensor | None, activation: str, gated: bool
) -> tuple[Tensor, Tensor]:
    grad_x = fresh(x.new_empty(x.shape))
    grad_bias = _empty(x, 0 if bias is None else x.shape[-1])
    memory: list[Tensor] = []
    native.module().epilogue.bias_activation_backward(
        _shape(grad),
        _rows(x, memory),
        _vector(bias, memory),
        _ACTIVATIONS[activation],
        gated,
        _rows(grad, memory),
        _rows(grad_x, memory),
        grad_bias.data_ptr(),
        torch.get_num_threads(),
    )
    return grad_x, grad_bias


def _empty(x: Tensor, shape: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    # A dtype as an argument takes longer than the memory.
    return fresh(x.new_empty(shape) if x.dtype == dtype else x.new_empty(shape, dtype=dtype))


def _shape(x: Tensor) -> tuple[int, int]:
    """Rows and columns."""
    columns = x.shape[-1]
    return x.numel() // columns, columns


def _rows(x: Tensor | None, memory: list[Tensor]) -> tuple[int, int, int]:
    """Address, stride and dtype of the rows, or of a copy, which ``memory`` keeps until after the call."""
    if x is None:
        return _NOTHING
    stride = x.shape[-1]
    if not x.is_contiguous():
        x = x.reshape(-1, stride)  # a view if it can be
        if x.stride(1) != 1:
            x = x.contiguous()
        stride = x.stride(0)
        memory.append(x)
    return x.data_ptr(), stride, native.DTYPES[x.dtype]


def _vector(x: Tensor | None, memory: list[Tensor]) -> tuple[int, int, int]:
    """Address, dtype, and whether it is one number for all columns."""
    if x is None:
        return _NOTHING
    if not x.is_contiguous():
        x = x.contiguous()
        memory.append(x)
    return x.data_ptr(), native.DTYPES[x.dtype], 0


def _gate(gate: Tensor | None, memory: list[Tensor]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """A gate of elements, and one of columns or of all."""
    if gate is not None and gate.dim() > 1:
        return _rows(gate, memory), _NOTHING
    address, dtype, _ = _vector(gate, memory)
    return _NOTHING, (address, dtype, gate is not None and gate.numel() == 1)
