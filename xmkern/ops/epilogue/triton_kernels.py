"""The Triton kernels of what follows a projection.

Rows are (data, stride from row to row), or () where they are absent; a parameter is (data,) or (). Sums over rows are
written as a row for each program and parameter, in the order of the arguments, and are added up by the launcher.
"""

import triton
import triton.language as tl

from xmkern.ops.attention.triton_scores import kept


@triton.jit
def load_rows(x, row, column, here):
    return tl.load(x[0] + row.to(tl.int64) * x[1] + column, mask=here, other=0.0).to(tl.float32)


@triton.jit
def store_rows(x, row, column, here, value):
    tl.store(x[0] + row.to(tl.int64) * x[1] + column, value.to(x[0].dtype.element_ty), mask=here)


@triton.jit
def scaled(x, parameter, column, there):
    if len(parameter) > 0:
        x *= tl.load(parameter[0] + column, mask=there, other=0.0).to(tl.float32)
    return x


@triton.jit
def shifted(x, parameter, column, there):
    if len(parameter) > 0:
        x += tl.load(parameter[0] + column, mask=there, other=0.0).to(tl.float32)
    return x


@triton.jit
def normalized(x, columns, eps, there, moments, row, rows, RMS: tl.constexpr):
    """What a norm makes of rows; a row without any deviation gives zeros. Mean and scale go to moments [2, rows]."""
    mean = tl.zeros_like(row).to(tl.float32)
    if not RMS:
        mean = (tl.sum(x, 1) / columns)[:, None]
    x = tl.where(there, x - mean, 0.0)
    variance = (tl.sum(x * x, 1) / columns)[:, None] + eps
    scale = tl.where(variance == 0.0, 0.0, 1.0 / tl.sqrt(variance))
    tl.store(moments + row, mean, mask=row < rows)
    tl.store(moments + rows + row, scale, mask=row < rows)
    return x * scale


@triton.jit
def dropped(x, row, dropout, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    if len(dropout) > 0:
        x = tl.where(kept(row, 0, row.to(tl.int64) >> 32, dropout, ROWS, COLUMNS), x * dropout[2], 0.0)
    return x


@triton.jit
def branch_of(x, row, column, here, there, linear_bias, dropout, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """dropout(x + linear_bias)"""
    value = tl.where(here, shifted(load_rows(x, row, column, here), linear_bias, column, there), 0.0)
    return dropped(value, row, dropout, ROWS, COLUMNS)


@triton.jit(do_not_specialize=["rows"])
def norm_kernel(
    x, residual, total, out, peaks, moments, epsilons, linear_bias, inner_weight, inner_bias, weight, bias, dropout,
    rows, columns,
    INNER: tl.constexpr, OUTER: tl.constexpr, RMS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """peaks: where the greatest absolute number of each row's sum goes instead of any result, or (). moments: of the
    inner norm, then of the outer, [2, rows] each; epsilons: likewise, of one number each."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    there = column < columns
    here = there & (row < rows)
    value = branch_of(x, row, column, here, there, linear_bias, dropout, ROWS, COLUMNS)
    if INNER:
        value = normalized(value, columns, tl.load(epsilons), there, moments, row, rows, RMS)
        value = shifted(scaled(value, inner_weight, column, there), inner_bias, column, there)
    if len(residual) > 0:
        value += load_rows(residual, row, column, here)
    if len(total) > 0:
        value = value.to(total[0].dtype.element_ty).to(tl.float32)
    if len(peaks) > 0:
        found = tl.max(tl.where(value == value, tl.abs(value), 0.0), 1)
        place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        tl.store(peaks[0] + place, found, mask=place < rows)
    else:
        if len(total) > 0:
            store_rows(total, row, column, here, value)
        if OUTER:
            if INNER:
                moments += 2 * rows.to(tl.int64)
            value = normalized(value, columns, tl.load(epsilons + 1), there, moments, row, rows, RMS)
            value = shifted(scaled(value, weight, column, there), bias, column, there)
            store_rows(out, row, column, here, value)


@triton.jit
def norm_slope(grad, x, columns, here, there, moments, row, rows, weight, column, RMS: tl.constexpr):
    """-> the gradient of a norm's input, and what the norm makes of it"""
    mean = tl.load(moments + row, mask=row < rows, other=0.0)
    scale = tl.load(moments + rows + row, mask=row < rows, other=0.0)
    normal = tl.where(here, (x - mean) * scale, 0.0)
    weighted = scaled(grad, weight, column, there)
    slope = weighted - normal * (tl.sum(weighted * normal, 1) / columns)[:, None]
    if not RMS:
        slope -= (tl.sum(weighted, 1) / columns)[:, None]
    return tl.where(here, slope * scale, 0.0), normal


@triton.jit
def store_sum(sums, index: tl.constexpr, count: tl.constexpr, acc, columns, COLUMNS: tl.constexpr):
    column = tl.arange(0, COLUMNS)
    place = sums + (tl.program_id(0).to(tl.int64) * count + index) * columns + column
    tl.store(place, tl.sum(acc, 0), mask=column < columns)


@triton.jit(do_not_specialize=["rows", "span"])
def norm_backward_kernel(
    grad_out, grad_sum, x, residual, total, grad_x, grad_residual, sums, moments,
    linear_bias, inner_weight, inner_bias, weight, bias, dropout,
    rows, columns, span,
    INNER: tl.constexpr, RMS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program takes ``span`` rows, a multiple of ROWS."""
    of_outer = moments
    if INNER:
        of_outer += 2 * rows.to(tl.int64)
    AFTER_INNER: tl.constexpr = len(linear_bias)
    AFTER_INNER_BIAS: tl.constexpr = AFTER_INNER + len(inner_weight)
    AFTER_OUTER: tl.constexpr = AFTER_INNER_BIAS + len(inner_bias)
    AFTER_BIAS: tl.constexpr = AFTER_OUTER + len(weight)
    COUNT: tl.constexpr = AFTER_BIAS + len(bias)
    column = tl.arange(0, COLUMNS)[None, :]
    there = column < columns
    of_linear_bias = tl.zeros((ROWS, COLUMNS), tl.float32)
    of_inner_weight, of_inner_bias = of_linear_bias, of_linear_bias
    of_weight, of_bias = of_linear_bias, of_linear_bias
    begin = tl.program_id(0) * span
    for first in tl.range(begin, tl.minimum(begin + span, rows), ROWS):
        row = (first + tl.arange(0, ROWS))[:, None]
        here = there & (row < rows)
        slope = tl.zeros((ROWS, COLUMNS), tl.float32)
        if len(grad_out) > 0:
            if len(total) > 0:
                value = load_rows(total, row, column, here)
            else:
                value = branch_of(x, row, column, here, there, linear_bias, dropout, ROWS, COLUMNS)
                if len(residual) > 0:
                    value += load_rows(residual, row, column, here)
            given = load_rows(grad_out, row, column, here)
            slope, normal = norm_slope(given, value, columns, here, there, of_outer, row, rows, weight, column, RMS)
            of_weight += given * normal
            of_bias += given
        if len(grad_sum) > 0:
            slope += load_rows(grad_sum, row, column, here)
        if len(grad_residual) > 0:
            store_rows(grad_residual, row, column, here, slope)
        if INNER:
            value = branch_of(x, row, column, here, there, linear_bias, dropout, ROWS, COLUMNS)
            of_inner_bias += slope
            given = slope
            slope, normal = norm_slope(
                given, value, columns, here, there, moments, row, rows, inner_weight, column, RMS
            )
            of_inner_weight += given * normal
        slope = dropped(slope, row, dropout, ROWS, COLUMNS)
        of_linear_bias += tl.where(here, slope, 0.0)
        store_rows(grad_x, row, column, here, slope)
    if len(linear_bias) > 0:
        store_sum(sums, 0, COUNT, of_linear_bias, columns, COLUMNS)
    if len(inner_weight) > 0:
        store_sum(sums, AFTER_INNER, COUNT, of_inner_weight, columns, COLUMNS)
    if len(inner_bias) > 0:
        store_sum(sums, AFTER_INNER_BIAS, COUNT, of_inner_bias, columns, COLUMNS)
    if len(weight) > 0:
        store_sum(sums, AFTER_OUTER, COUNT, of_weight, columns, COLUMNS)
    if len(bias) > 0:
        store_sum(sums, AFTER_BIAS, COUNT, of_bias, columns, COLUMNS)
