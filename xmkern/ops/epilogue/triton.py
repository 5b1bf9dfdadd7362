"""Launches the Triton kernels: picks the tiles, makes the memory. Triton is imported by the first call."""

from typing import Any

import torch
from torch import Tensor

from xmkern.ops import gpu, tuning
from xmkern.ops.attention.triton_arguments import lower_dropout
from xmkern.ops.epilogue.reference import sum_dtype
from xmkern.ops.gpu import cdiv, power_of_two

MAX_COLUMNS = 8192  # of a norm, whose row is in the registers of one program
_FAR = 1 << 31  # rows are counted in 32 bits
_MOST_BLOCKS = 512  # of rows, each with sums of its own


def refuses(*args: Any) -> str | None:
    for x in args:
        if isinstance(x, Tensor) and x.is_floating_point():
            reason = gpu.refuses(x)
            if reason is not None:
                return reason
            if x.numel() >= _FAR * max(1, x.shape[-1] if x.dim() else 1):
                return f"there are {_FAR} or more rows"
    return None


def refuses_norm(*args: Any) -> str | None:
    columns = next(x for x in args if isinstance(x, Tensor)).shape[-1]
    if columns > MAX_COLUMNS:
        return f"the kernels take rows of up to {MAX_COLUMNS} numbers, not {columns}"
    return refuses(*args)


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
    from xmkern.ops.epilogue import triton_kernels as kernels

    dtype = sum_dtype(x, residual)
    out, kept = (x.new_empty(x.shape if wanted else 0, dtype=dtype) for wanted in (outer, keep_sum))
    rows, columns = _shape(x)
    moments = torch.empty(inner + outer, 2, rows, dtype=torch.float32, device=x.device)
    if rows == 0:
        return out, kept, moments
    epsilons = x.new_full((2,), eps, dtype=torch.float32)
    tile = _norm_tile(columns, x)
    parameters = [_vector(p) for p in (linear_bias, inner_weight, inner_bias, weight, bias)]

    def launch(peaks: tuple[Tensor, ...], inner: bool, summed: bool) -> None:
        gpu.launch(
            kernels.norm_kernel, cdiv(rows, tile["ROWS"]), _rows(x), _rows(residual if summed else None),
            _rows(kept if keep_sum and summed else None), _rows(out if outer else None), peaks, moments, epsilons,
            *parameters, lower_dropout(dropout_p, seed, 0), rows, columns,
            INNER=inner, OUTER=outer, RMS=rms, **tile,
        )  # fmt: skip

    with gpu.on(x):
        for which, wanted in enumerate((inner, outer)):
            if pb_relax and wanted:
                peaks = torch.empty(rows, dtype=torch.float32, device=x.device)
                launch((peaks,), inner and which == 1, which == 1)
                epsilons[which] = eps * (peaks.amax() / 8).square()
        launch((), inner, True)
    return out, kept, moments


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
    from xmkern.ops.epilogue import triton_kernels as kernels

    like = grad_out if grad_out is not None else grad_sum
    assert like is not None
    parameters = (linear_bias, inner_weight, inner_bias, weight, bias)
    grad_x = like.new_empty(like.shape, dtype=like.dtype if x is None else x.dtype)
    grad_residual = like.new_empty(
        like.shape if residual_grad else 0, dtype=like.dtype if residual is None else residual.dtype
    )
    rows, columns = _shape(like)
    tile = _norm_tile(columns, like)
    span, blocks = _cut(rows, tile["ROWS"])
    sums = torch.zeros(blocks, sum(p is not None for p in parameters), columns, device=like.device)
    if rows:
        with gpu.on(like):
            gpu.launch(
                kernels.norm_backward_kernel, blocks, *(_rows(y) for y in (grad_out, grad_sum, x, residual, kept_sum)),
                _rows(grad_x), _rows(grad_residual if residual_grad else None), sums, moments.contiguous(),
                *map(_vector, parameters), lower_dropout(dropout_p, seed, 0), rows, columns, span,
                INNER=inner, RMS=rms, **tile,
            )  # fmt: skip
    return grad_x, grad_residual, sums.sum(0)


def gated_residual(
    x: Tensor, residual: Tensor, gate: Tensor | None, bias: Tensor | None, activation: str | None
) -> Tensor:
    from xmkern.ops.epilogue import triton_elements as kernels

    out = x.new_empty(x.shape, dtype=sum_dtype(x, residual))
    (rows, columns), (gates, one) = _shape(x), _gate(gate)
    tile = _tile(columns, x)
    if rows:
        with gpu.on(x):
            gpu.launch(
                kernels.gate_kernel, cdiv(rows, tile["ROWS"]) * cdiv(columns, tile["COLUMNS"]), _rows(x),
                _rows(residual), _rows(gates), _rows(out), _vector(gate if gates is None else None), _vector(bias),
                rows, columns, ACTIVATION=activation, ONE=one, **tile,
            )  # fmt: skip
    return out


def gated_residual_backward(
    grad: Tensor, x: Tensor, gate: Tensor | None, bias: Tensor | None, activation: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    from xmkern.ops.epilogue import triton_elements as kernels

    (rows, columns), (gates, one) = _shape(x), _gate(gate)
    grad_x = x.new_empty(x.shape)
    grad_gates = x.new_empty(0) if gates is None else gates.new_empty(x.shape)
    tile = _tile(columns, x)
    span, blocks = _cut(rows, tile["ROWS"])
    count = (gate is not None and gates is None) + (bias is not None)
    sums = torch.zeros(blocks, count, columns, device=x.device)
    if rows:
        with gpu.on(x):
            gpu.launch(
                kernels.gate_backward_kernel, blocks * cdiv(columns, tile["COLUMNS"]), _rows(grad), _rows(x),
                _rows(gates), _rows(grad_x), _rows(None if gates is None else grad_gates),
                _vector(gate if gates is None else None), _vector(bias), sums, rows, columns, span,
                ACTIVATION=activation, ONE=one, **tile,
            )  # fmt: skip
    return grad_x, grad_gates, sums.sum(0)


def bias_activation(x: Tensor, bias: Tensor | None, activation: str, gated: bool) -> Tensor:
    from xmkern.ops.epilogue import triton_elements as kernels

    out = x.new_empty((*x.shape[:-1], x.shape[-1] // 2 if gated else x.shape[-1]))
    rows, columns = _shape(out)
    tile = _tile(columns, x)
    if rows:
        with gpu.on(x):
            gpu.launch(
                kernels.activation_kernel, cdiv(rows, tile["ROWS"]) * cdiv(columns, tile["COLUMNS"]), _rows(x),
                _rows(out), _vector(bias), rows, columns, ACTIVATION=activation, GATED=gated, **tile,
            )  # fmt: skip
    return out


def bias_activation_backward(
    grad: Tensor, x: Tensor, bias: Tensor | None, activation: str, gated: bool
) -> tuple[Tensor, Tensor]:
    from xmkern.ops.epilogue import triton_elements as kernels

    rows, columns = _shape(grad)
    grad_x = x.new_empty(x.shape)
    tile = _tile(columns, x)
    span, blocks = _cut(rows, tile["ROWS"])
    sums = torch.zeros(blocks, 0 if bias is None else x.shape[-1], device=x.device)
    if rows:
        with gpu.on(x):
            gpu.launch(
                kernels.activation_backward_kernel, blocks * cdiv(columns, tile["COLUMNS"]), _rows(grad), _rows(x),
                _rows(grad_x), _vector(bias), sums, rows, columns, span, ACTIVATION=activation, GATED=gated, **tile,
            )  # fmt: skip
    return grad_x, sums.sum(0)


def _shape(x: Tensor) -> tuple[int, int]:
    return x.numel() // x.shape[-1], x.shape[-1]


def _norm_tile(columns: int, x: Tensor) -> dict[str, int]:
    """Whole rows; dropout comes for 64 columns at a time."""
    width = max(64, power_of_two(columns))
    return _rows_of_tile(width, tuning.chosen("epilogue.norm", gpu.chip_of(x.device), columns=width))


def _tile(columns: int, x: Tensor) -> dict[str, int]:
    row = tuning.chosen("epilogue.elements", gpu.chip_of(x.device))
    return _rows_of_tile(min(row["numbers"], power_of_two(columns)), row)


def _rows_of_tile(width: int, row: tuning.Row) -> dict[str, int]:
    return {"ROWS": max(1, row["numbers"] // width), "COLUMNS": width, "num_warps": row["warps"]}


def _cut(rows: int, tile: int) -> tuple[int, int]:
    """How many rows each block has, in whole tiles, and how many blocks that makes: by size alone."""
    span = max(1, cdiv(cdiv(rows, tile), _MOST_BLOCKS)) * tile
    return span, cdiv(rows, span)


def _rows(x: Tensor | None) -> tuple[Any, ...]:
    if x is None:
        return ()
    x = x.reshape(-1, x.shape[-1])  # a view if it can be
    x = x if x.stride(1) == 1 else x.contiguous()
    return x, x.stride(0)


def _vector(x: Tensor | None) -> tuple[Any, ...]:
    return () if x is None else (x.contiguous(),)


def _gate(gate: Tensor | None) -> tuple[Tensor | None, bool]:
    """A gate of elements, or None; whether it is one number for all."""
    return (gate if gate is not None and gate.dim() > 1 else None), gate is not None and gate.numel() == 1
