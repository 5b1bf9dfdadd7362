"""The backward kernel of similarity reductions in Triton: how they change with each product of a strip of rows."""

# ruff: noqa: RET505 -- Triton wants what is known when it compiles in both branches.
import triton
import triton.language as tl

from xmkern.ops.contrastive.triton_pairs import element, exp, logits_of, names_of, rows_of
from xmkern.ops.triton_product import pieces, product


@triton.jit(do_not_specialize=["sizes"])
def slope_kernel(
    x, y, scales, sorts, offsets, of_rows, of_columns, slopes, row_sums, column_sums, sizes,
    KIND: tl.constexpr, BOTH: tl.constexpr, EVEN: tl.constexpr, UNIT: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr, PIECE: tl.constexpr,
):  # fmt: skip
    """The gradient of the products of a strip of rows with all columns -> slopes (data, stride of a row).

    Also the sums that the scales and the bias need. row_sums float32 [2, spans, rows]: of the gradient of logits times
    what x_scale is multiplied by, and of that gradient, for each span of columns. column_sums float32 [tiles, columns]:
    what y_scale needs, for each tile of rows in a strip, added to what is there. One program takes one tile of rows
    and one span of columns, and no other of this launch writes where it does.

    of_rows, of_columns: the vectors (value, positive, gradient of value, gradient of positive). sizes: (rows, columns,
    units of depth, column tiles of a span, spans, first row of the strip, its end).
    """
    rows, columns, depth, of_span, spans = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]
    first_row, end_row = sizes[5], sizes[6]
    tile, span = tl.program_id(0) // spans, tl.program_id(0) % spans
    i = first_row + tile * ROWS + tl.arange(0, ROWS)
    here = i < end_row
    x_rows = rows_of(x, i, rows, UNIT)
    names = names_of(scales, sorts, i, here, 0)
    side = _side(of_rows, offsets, i, here, KIND, 0)
    x_sum, z_sum = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for column in tl.range(span * of_span * COLUMNS, tl.minimum((span + 1) * of_span * COLUMNS, columns), COLUMNS):
        y_rows = rows_of(y, column + tl.arange(0, COLUMNS), columns, UNIT)
        all_products = product(x_rows, y_rows, depth, EVEN, UNIT, CHUNK, PRECISION)
        all_products = pieces(all_products, COLUMNS // PIECE)
        for k in tl.static_range(COLUMNS // PIECE):
            products, j = all_products[k], column + k * PIECE + tl.arange(0, PIECE)
            there = j < columns
            z, positive, hidden = logits_of(products, names, scales, sorts, i, j, here, there)
            slope = _slope(z, positive, hidden, side, KIND, 1)
            if BOTH:
                slope += _slope(z, positive, hidden, _side(of_columns, offsets, j, there, KIND, 1), KIND, 0)
            y_scale = element(scales[1], j, there, 0.0)[None, :]
            z_sum += tl.sum(slope, 1)
            x_sum += tl.sum(slope * products * y_scale, 1)
            slope *= names[0][:, None]
            place = slopes[0] + (i - first_row).to(tl.int64)[:, None] * slopes[1] + j[None, :]
            tl.store(place, (slope * y_scale).to(slopes[0].dtype.element_ty), mask=here[:, None] & there[None, :])
            place = column_sums + tile.to(tl.int64) * columns + j
            tl.store(place, tl.load(place, mask=there, other=0.0) + tl.sum(slope * products, 0), mask=there)
    place = row_sums + span.to(tl.int64) * rows + i
    tl.store(place, x_sum, mask=here)
    tl.store(place + spans.to(tl.int64) * rows, z_sum, mask=here)


@triton.jit
def _side(vectors, offsets, index, here, KIND: tl.constexpr, WHICH: tl.constexpr):
    """(value, pooled, gradient of value, gradient of positive, offset) of rows or of columns."""
    push, pull = element(vectors[2], index, here, 0.0), element(vectors[3], index, here, 0.0)
    value, pooled, offset = push, push, push
    if KIND == "logsumexp" or KIND == "mil":
        value = element(vectors[0], index, here, 0.0)
    if KIND == "mil":
        pooled = element(vectors[1], index, here, 0.0)
    if KIND == "hinge" or KIND == "margin":
        offset = element(offsets[WHICH], index, here, 0.0)
    return value, pooled, push, pull, offset


@triton.jit
def _slope(z, positive, hidden, side, KIND: tl.constexpr, AXIS: tl.constexpr):
    """How the rows' reductions (AXIS 1), or the columns' (0), each times its gradient, change with z.

    Where a logarithm is -inf, no pair is there that it would be a weight of.
    """
    push, pull = tl.expand_dims(side[2], AXIS), tl.expand_dims(side[3], AXIS)
    if KIND == "softplus":
        sign = tl.where(positive, -1.0, 1.0)
        return tl.where(hidden, 0.0, push * sign / (1.0 + exp(-sign * z)))
    elif KIND == "margin":
        sign = tl.where(positive, -1.0, 1.0)
        return tl.where(~hidden & (tl.expand_dims(side[4], AXIS) + sign * z > 0), push * sign, 0.0)
    elif KIND == "hinge":
        over = ~(positive | hidden) & (z + tl.expand_dims(side[4], AXIS) > 0)
        return tl.where(over, push, tl.where(positive, pull, 0.0))
    else:
        slope = tl.where(hidden, 0.0, push * exp(z - tl.expand_dims(side[0], AXIS)))
        drawn = pull
        if KIND == "mil":
            drawn = pull * exp(z - tl.expand_dims(side[1], AXIS))
        return slope + tl.where(positive, drawn, 0.0)
