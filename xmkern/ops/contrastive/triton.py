"""Launches the Triton kernels of similarity reductions: picks the tiles, makes the memory. Triton is imported by the
first call.

The logits are computed once for the rows' reductions, once for the columns', and once for the gradient. Its other two
products are left to torch: slopes are written for a strip of rows at a time, [1024, N], and multiplied by y for the
gradient of x, and by x for that of y. A kernel that kept them on the chip would have to hold sums of [rows, D] there,
for which a row of 512 numbers and more leaves no tile large enough to be fast, and to compute the logits once more.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xmkern.ops import gpu, tuning
from xmkern.ops.contrastive import reference
from xmkern.ops.gpu import cdiv, power_of_two

_FAR = 1 << 30  # rows and columns are counted in 32 bits
_PROGRAMS = 512  # into which a matrix is cut where it has as many tiles: some for each processor of any GPU
_STRIP = 1024  # rows whose slopes are written at a time
_PIECE = 32  # columns of a tile whose logits are looked at together: more would not fit in registers


@dataclass(frozen=True)
class Tiles:
    """rows of x and of y, and the numbers of them that are read at a time."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


def refuses(x: Tensor, y: Tensor, *args: Any) -> str | None:
    """Why these arguments of ``similarity_reduce`` cannot be served, or None."""
    if max(len(x), len(y)) >= _FAR:
        return f"there are {_FAR} or more rows or columns"
    return gpu.refuses(x)


class _Call:
    """What the kernels of one call share."""

    def __init__(
        self,
        kind: str,
        backward: bool,
        x: Tensor,
        y: Tensor,
        x_scale: Tensor,
        y_scale: Tensor,
        bias: Tensor,
        x_ids: Tensor | None,
        y_ids: Tensor | None,
        x_groups: Tensor | None,
        y_groups: Tensor | None,
        relevance: Tensor | None,
        x_offset: Tensor | None,
        y_offset: Tensor | None,
    ) -> None:
        x, y = (each if each.stride(1) == 1 else each.contiguous() for each in (x, y))
        # What all these divide by: the compiler is told, and reads rows in vectors.
        unit = 1 if any(n % 8 for n in (x.shape[1], x.stride(0), y.stride(0))) else 8
        dense = () if relevance is None else (relevance, *relevance.stride())
        self.operands = (
            (x, x.stride(0) // unit),
            (y, y.stride(0) // unit),
            (*_vectors(x_scale, y_scale), bias),
            (_vectors(x_ids, y_ids), _vectors(x_groups, y_groups), dense),
            _vectors(x_offset, y_offset),
        )
        self.sizes = (len(x), len(y), x.shape[1] // unit)
        self.tiles = tiles = _tiles(kind, x, y, backward, relevance is not None)
        self.constants = {
            "KIND": kind,
            "EVEN": x.shape[1] % tiles.depth == 0,
            "UNIT": unit,
            "PRECISION": gpu.precision(x.dtype),
            "ROWS": tiles.rows,
            "COLUMNS": tiles.columns,
            "CHUNK": tiles.depth,
            "PIECE": min(_PIECE, tiles.columns),
            "num_warps": tiles.warps,
            "num_stages": tiles.stages,
        }

    def cut(self, rows: int) -> tuple[int, int, int]:
        """How so many rows are cut among programs, by size alone: tiles of rows, tiles of columns in a span, spans."""
        row_tiles, column_tiles = cdiv(rows, self.tiles.rows), cdiv(self.sizes[1], self.tiles.columns)
        of_span = cdiv(column_tiles, cdiv(_PROGRAMS, row_tiles))
        return row_tiles, of_span, cdiv(column_tiles, of_span)


def similarity_reduce(x: Tensor, y: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    if x.numel() == 0 or y.numel() == 0:
        return reference.similarity_reduce(x, y, *rest)
    *operands, kind, columns = rest
    with gpu.on(x):
        rows = _reduced_rows(_Call(kind, False, x, y, *operands))
        if columns:
            return *rows, *_reduced_rows(_Call(kind, False, y, x, *_turned(*operands)))
        return *rows, *(part.new_empty(0) for part in rows)


def _turned(
    x_scale: Tensor,
    y_scale: Tensor,
    bias: Tensor,
    x_ids: Tensor | None,
    y_ids: Tensor | None,
    x_groups: Tensor | None,
    y_groups: Tensor | None,
    relevance: Tensor | None,
    x_offset: Tensor | None,
    y_offset: Tensor | None,
) -> tuple[Any, ...]:
    """The matrix on its side. Sums over the rows of a tile would cost about as much as its products do: the columns'
    reductions are those of the rows of a second matrix."""
    turned = None if relevance is None else relevance.mT
    return y_scale, x_scale, bias, y_ids, x_ids, y_groups, x_groups, turned, y_offset, x_offset


def _reduced_rows(call: _Call) -> tuple[Tensor, Tensor, Tensor]:
    from xmkern.ops.contrastive import triton_forward as kernels

    x, rows = call.operands[0][0], call.sizes[0]
    row_tiles, of_span, spans = call.cut(rows)
    parts = (x.new_empty(4, spans, rows, dtype=torch.float32), x.new_empty(spans, rows, dtype=torch.int32))
    gpu.launch(
        kernels.reduce_kernel, row_tiles * spans, *call.operands, parts, (*call.sizes, of_span, spans),
        **call.constants,
    )  # fmt: skip
    value, positive = x.new_empty(2, rows, dtype=torch.float32)
    count = x.new_empty(rows, dtype=torch.int64)
    padded = power_of_two(spans)
    width = 2048 // padded
    gpu.launch(
        kernels.merge_kernel, cdiv(rows, width), parts, (value, positive, count), spans, rows,
        KIND=call.constants["KIND"], SPANS=padded, WIDTH=width, num_warps=4,
    )  # fmt: skip
    return value, positive, count


def similarity_reduce_backward(
    grad_row_value: Tensor,
    grad_row_positive: Tensor,
    grad_column_value: Tensor,
    grad_column_positive: Tensor,
    x: Tensor,
    y: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    grads = (grad_row_value, grad_row_positive, grad_column_value, grad_column_positive)
    if x.numel() == 0 or y.numel() == 0:
        return reference.similarity_reduce_backward(*grads, x, y, *rest)
    from xmkern.ops.contrastive import triton_backward as kernels

    *operands, row_value, row_positive, column_value, column_positive, kind, columns, x_grad, y_grad = rest
    call = _Call(kind, True, x, y, *operands)
    strip = min(_STRIP, len(x))
    row_tiles, of_span, spans = call.cut(strip)
    of_rows = _vectors(row_value, row_positive, *grads[:2])
    of_columns = _vectors(column_value, column_positive, *grads[2:])
    slopes = x.new_empty(strip, cdiv(len(y), 8) * 8)  # rows begin where torch's products like it
    row_sums = x.new_empty(2, spans, len(x), dtype=torch.float32)
    column_sums = x.new_zeros(row_tiles, len(y), dtype=torch.float32)
    grad_x = x.new_empty(x.shape if x_grad else 0)
    grad_y = y.new_zeros(y.shape if y_grad else 0, dtype=torch.float32)
    # The dtypes are settled before an operator is called.
    with gpu.on(x), torch.autocast(x.device.type, enabled=False):
        for first in range(0, len(x), strip):
            end = min(first + strip, len(x))
            gpu.launch(
                kernels.slope_kernel, cdiv(end - first, call.tiles.rows) * spans, *call.operands, of_rows, of_columns,
                (slopes, slopes.stride(0)), row_sums, column_sums, (*call.sizes, of_span, spans, first, end),
                BOTH=columns, **call.constants,
            )  # fmt: skip
            used = slopes[: end - first, : len(y)]
            if x_grad:
                torch.mm(used, y, out=grad_x[first:end])
            if y_grad:
                grad_y += _wide_product(used.mT, x[first:end])
    grad_x_scale, of_logits = row_sums.sum(1)
    return grad_x, grad_y.to(y.dtype), grad_x_scale, column_sums.sum(0), of_logits.sum()


def _wide_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


def _tiles(kind: str, x: Tensor, y: Tensor, backward: bool, related: bool) -> Tiles:
    size, chip = x.element_size(), gpu.chip_of(x.device)
    # Registers must be left for a second sum a row, and for the places of flags in a matrix that may lie on its side.
    call = {"size": size, "crowded": kind == "mil" or (related and size == 4)}
    kernel = "contrastive.backward" if backward else "contrastive.forward"
    row = tuning.chosen(kernel, chip, few=False, **call)
    rows = min(len(x), _STRIP) if backward else len(x)
    if cdiv(rows, row["rows"]) * cdiv(len(y), row["columns"]) < _PROGRAMS // 4:
        row = tuning.chosen(kernel, chip, few=True, **call)
    return Tiles(
        min(row["rows"], max(16, power_of_two(len(x)))),
        min(row["columns"], max(16, power_of_two(len(y)))),
        # The table has one for all tiles: so a logit has the same bits wherever it is computed, and is never off from a
        # log-sum-exp that it is a part of.
        min(row["chunk"], max(16, power_of_two(x.shape[1]))),
        row["warps"],
        row["stages"],
    )


def _vectors(*given: Tensor | None) -> tuple[Any, ...]:
    """Those that are given, as the kernels take them."""
    return tuple(_vector(x) for x in given if x is not None)


def _vector(x: Tensor) -> tuple[Any, ...]:
    if len(x) > 1 and x.stride(0) == 0:
        return x, 0
    return (x.contiguous(),)
