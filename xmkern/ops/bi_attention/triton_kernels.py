"""The Triton kernels of attention both ways, of one side at a time: its output, and its gradients.

``x`` is that side and ``y`` the other; ``v`` and ``w`` are their values, ``g`` and ``h`` gradients of their outputs.
An operand is (data, strides of batch, head and row in units of UNIT numbers); a mask is () or (data, stride of batch).
"""

import triton
import triton.language as tl

from xmkern.ops.triton_product import dot, product

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["sizes"])
def forward_kernel(
    x, y, w, x_mask, y_mask, out, lse, scale, sizes,
    TANH: tl.constexpr, SOFTMAX: tl.constexpr, EVEN: tl.constexpr, UNIT: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One program takes some rows of x and DEPTH numbers of their output, over all of y, by online softmax.

    sizes: (heads, rows of x, rows of y, units of their depth, units of the depth of w).
    """
    x_count, y_count, depth, w_depth = sizes[1], sizes[2], sizes[3], sizes[4] * UNIT
    b, h, r, d = place(sizes[0], x_count, w_depth, ROWS, DEPTH)
    x_rows = rows_of(x, b, h, r, x_count, UNIT)
    scale = tl.cast(scale, tl.float32)
    acc = tl.zeros((ROWS, DEPTH), tl.float32)
    most, total = tl.full((ROWS,), float("-inf"), tl.float32), tl.zeros((ROWS,), tl.float32)
    for first in tl.range(0, y_count, COLUMNS):
        c = first + tl.arange(0, COLUMNS)
        p = product(x_rows, rows_of(y, b, h, c, y_count, UNIT), depth, EVEN, UNIT, CHUNK, PRECISION) * scale
        if TANH:
            p = tanh(p)
        seen = visible(y_mask, b, c, y_count)
        if SOFTMAX:
            p = tl.where(seen[None, :], p, float("-inf"))
            now = tl.maximum(most, tl.max(p, 1))
            shift = tl.where(now == float("-inf"), 0.0, now)
            p = tl.exp2((p - shift[:, None]) * LOG2_E)
            kept = tl.exp2((most - shift) * LOG2_E)
            total, most = total * kept + tl.sum(p, 1), now
            acc *= kept[:, None]
        else:
            p = tl.where(seen[None, :], p, 0.0)
        values = part_of(w, b, h, c, d, seen, w_depth, UNIT)
        acc = dot(p.to(values.dtype), values, acc, PRECISION)
    in_x = r < x_count
    there = visible(x_mask, b, r, x_count)
    if SOFTMAX:
        acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        found = tl.where(there & (total != 0.0), most + tl.log(total), float("-inf"))
        tl.store(lse + (b * sizes[0] + h) * x_count + r, found, mask=in_x)
    store(out, b, h, r, d, tl.where(there[:, None], acc, 0.0), in_x, w_depth, UNIT)


@triton.jit(do_not_specialize=["sizes"])
def gradient_kernel(
    x, y, v, w, g, h_grad, x_mask, y_mask, x_sums, y_sums, grad_x, grad_v, scale, sizes,
    TANH: tl.constexpr, SOFTMAX: tl.constexpr, EVEN: tl.constexpr, UNIT: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One program takes some rows of x and DEPTH numbers of the gradients of x and of v, over all of y.

    x_sums, y_sums: with SOFTMAX, of each row the log-sum-exp and the sum of weights times their gradients. sizes:
    (heads, rows of x, rows of y, units of their depth, of that of v, and of that of w).
    """
    x_count, y_count, depth, v_depth, w_depth = sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]
    b, h, r, d = place(sizes[0], x_count, tl.maximum(depth, v_depth) * UNIT, ROWS, DEPTH)
    x_rows, v_rows, g_rows = (rows_of(x, b, h, r, x_count, UNIT), rows_of(v, b, h, r, x_count, UNIT),
                              rows_of(g, b, h, r, x_count, UNIT))  # fmt: skip
    scale = tl.cast(scale, tl.float32)
    there = visible(x_mask, b, r, x_count)
    row = (b * sizes[0] + h) * x_count + r
    if SOFTMAX:
        row_lse = tl.load(x_sums[0] + row, mask=there, other=0.0)
        row_delta = tl.load(x_sums[1] + row, mask=there, other=0.0)
        row_lse = tl.where(row_lse == float("-inf"), 0.0, row_lse)
    x_acc, v_acc = tl.zeros((ROWS, DEPTH), tl.float32), tl.zeros((ROWS, DEPTH), tl.float32)
    for first in tl.range(0, y_count, COLUMNS):
        c = first + tl.arange(0, COLUMNS)
        seen = visible(y_mask, b, c, y_count)
        both = there[:, None] & seen[None, :]
        s = product(x_rows, rows_of(y, b, h, c, y_count, UNIT), depth, EVEN, UNIT, CHUNK, PRECISION) * scale
        if TANH:
            s = tanh(s)
        by_row = product(g_rows, rows_of(w, b, h, c, y_count, UNIT), w_depth, EVEN, UNIT, CHUNK, PRECISION)
        by_column = product(v_rows, rows_of(h_grad, b, h, c, y_count, UNIT), v_depth, EVEN, UNIT, CHUNK, PRECISION)
        q = s
        slope = by_row + by_column
        if SOFTMAX:
            column = (b * sizes[0] + h) * y_count + c
            column_lse = tl.load(y_sums[0] + column, mask=seen, other=0.0)
            column_lse = tl.where(column_lse == float("-inf"), 0.0, column_lse)
            column_delta = tl.load(y_sums[1] + column, mask=seen, other=0.0)
            q = tl.exp2((s - column_lse[None, :]) * LOG2_E)
            p = tl.exp2((s - row_lse[:, None]) * LOG2_E)
            slope = p * (by_row - row_delta[:, None]) + q * (by_column - column_delta[None, :])
        if TANH:
            slope *= 1.0 - s * s
        kind = x[0].dtype.element_ty
        slope, q = tl.where(both, slope * scale, 0.0).to(kind), tl.where(both, q, 0.0).to(kind)
        x_acc = dot(slope, part_of(y, b, h, c, d, seen, depth * UNIT, UNIT), x_acc, PRECISION)
        v_acc = dot(q, part_of(h_grad, b, h, c, d, seen, v_depth * UNIT, UNIT), v_acc, PRECISION)
    in_x = r < x_count
    store(grad_x, b, h, r, d, tl.where(there[:, None], x_acc, 0.0), in_x, depth * UNIT, UNIT)
    store(grad_v, b, h, r, d, tl.where(there[:, None], v_acc, 0.0), in_x, v_depth * UNIT, UNIT)


@triton.jit
def place(heads, count, depth, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """-> batch, head, rows and numbers of a program"""
    parts, tiles = tl.cdiv(depth, DEPTH), tl.cdiv(count, ROWS)
    program = tl.program_id(0)
    matrix = (program // parts // tiles).to(tl.int64)
    r = program // parts % tiles * ROWS + tl.arange(0, ROWS)
    return matrix // heads, matrix % heads, r, program % parts * DEPTH + tl.arange(0, DEPTH)


@triton.jit
def rows_of(x, b, h, r, count, UNIT: tl.constexpr):
    """Where rows begin; the last is repeated, which spares the loads a mask."""
    return x[0] + (b * x[1] + h * x[2] + tl.minimum(r, count - 1).to(tl.int64) * x[3]) * UNIT


@triton.jit
def part_of(x, b, h, r, d, seen, depth, UNIT: tl.constexpr):
    """Some numbers of rows, zeros where hidden: their NaN times a weight of zero would be NaN."""
    at = x[0] + (b * x[1] + h * x[2] + r.to(tl.int64) * x[3])[:, None] * UNIT + d[None, :]
    return tl.load(at, mask=seen[:, None] & (d < depth)[None, :], other=0.0)


@triton.jit
def store(x, b, h, r, d, values, in_x, depth, UNIT: tl.constexpr):
    at = x[0] + (b * x[1] + h * x[2] + r.to(tl.int64) * x[3])[:, None] * UNIT + d[None, :]
    tl.store(at, values.to(x[0].dtype.element_ty), mask=in_x[:, None] & (d < depth)[None, :])


@triton.jit
def visible(mask, b, r, count):
    """Which rows are there and not hidden by a mask."""
    there = r < count
    if len(mask) > 0:
        there &= tl.load(mask[0] + b * mask[1] + r, mask=there, other=0) != 0
    return there


@triton.jit
def tanh(x):
    """As csrc/core/vector.h has it: the polynomial of Cephes' tanhf near 0, where 1 - e is too coarse."""
    magnitude = tl.abs(x)
    e = tl.exp2(magnitude * (-2.0 * LOG2_E))
    square = x * x
    p = -5.70498872745e-3 * square + 2.06390887954e-2
    p = p * square - 5.37397155531e-2
    p = p * square + 1.33314422036e-1
    p = p * square - 3.33332819422e-1
    size = tl.where(magnitude < 0.625, magnitude + magnitude * square * p, (1.0 - e) / (1.0 + e))
    return tl.where(x < 0.0, -size, size)
