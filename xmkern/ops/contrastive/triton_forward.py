"""The forward kernels of similarity reductions in Triton.

What some pairs of a row come to is a *state* (top, total, pooled top, pooled total, count). A sum of exponentials is
``exp(top) * total``, top being the greatest logit; a plain sum has top 0; of the greatest logit the count is the
place, and the total is 0, or NaN if a logit is.
"""

# ruff: noqa: RET505, SIM116 -- Triton wants what is known when it compiles in both branches.
import triton
import triton.language as tl

from xmkern.ops.contrastive.triton_pairs import LN2, element, exp, logits_of, names_of, rows_of
from xmkern.ops.triton_product import pieces, product

NOWHERE = tl.constexpr(2**31 - 1)  # the place of the greatest of none


@triton.jit(do_not_specialize=["sizes"])
def reduce_kernel(
    x, y, scales, sorts, offsets, parts, sizes,
    KIND: tl.constexpr, EVEN: tl.constexpr, UNIT: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr, PIECE: tl.constexpr,
):  # fmt: skip
    """States of the rows for each span of columns -> parts (float32 [4, spans, rows], int32 [spans, rows]).

    One program takes one tile of rows and one span. offsets: the vectors of the rows and of the columns, or (); sizes:
    (rows, columns, units of depth, column tiles of a span, spans).
    """
    rows, columns, depth, of_span, spans = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]
    tile, span = tl.program_id(0) // spans, tl.program_id(0) % spans
    i = tile * ROWS + tl.arange(0, ROWS)
    here = i < rows
    margin = i
    if KIND == "hinge" or KIND == "margin":
        margin = element(offsets[0], i, here, 0.0)
    x_rows = rows_of(x, i, rows, UNIT)
    of_rows = names_of(scales, sorts, i, here, 0)
    nothing = _nothing(KIND)
    top, total = tl.full((ROWS,), nothing[0], tl.float32), tl.zeros((ROWS,), tl.float32)
    pooled_top, pooled = tl.full((ROWS,), nothing[1], tl.float32), tl.zeros((ROWS,), tl.float32)
    count = tl.full((ROWS,), nothing[2], tl.int32)
    for column in tl.range(span * of_span * COLUMNS, tl.minimum((span + 1) * of_span * COLUMNS, columns), COLUMNS):
        y_rows = rows_of(y, column + tl.arange(0, COLUMNS), columns, UNIT)
        all_products = product(x_rows, y_rows, depth, EVEN, UNIT, CHUNK, PRECISION)
        all_products = pieces(all_products, COLUMNS // PIECE)
        for k in tl.static_range(COLUMNS // PIECE):
            j = column + k * PIECE + tl.arange(0, PIECE)
            z, positive, hidden = logits_of(all_products[k], of_rows, scales, sorts, i, j, here, j < columns)
            found = _reduced(z, positive, hidden, margin[:, None], j[None, :], KIND)
            if KIND == "maximum":
                count = tl.where(found[0] > top, found[4], count)  # of equals the first
            else:
                count += found[4]
            top, total = _sum_of_two(top, total, found[0], found[1])
            pooled_top, pooled = _sum_of_two(pooled_top, pooled, found[2], found[3])
    place = span.to(tl.int64) * rows + i
    each = spans.to(tl.int64) * rows
    tl.store(parts[0] + place, top, mask=here)
    tl.store(parts[0] + each + place, total, mask=here)
    tl.store(parts[0] + 2 * each + place, pooled_top, mask=here)
    tl.store(parts[0] + 3 * each + place, pooled, mask=here)
    tl.store(parts[1] + place, count, mask=here)


@triton.jit(do_not_specialize=["spans", "rows"])
def merge_kernel(parts, results, spans, rows, KIND: tl.constexpr, SPANS: tl.constexpr, WIDTH: tl.constexpr):
    """-> value, positive float32 [rows], count or place int64 [rows]; one program for WIDTH rows."""
    i = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    here = i < rows
    span = tl.arange(0, SPANS)[:, None]
    there = (span < spans) & here[None, :]
    place = span.to(tl.int64) * rows + i[None, :]
    each = spans.to(tl.int64) * rows
    nothing = _nothing(KIND)
    tops = tl.load(parts[0] + place, mask=there, other=nothing[0])
    top, total = _sum_of_all(tops, tl.load(parts[0] + each + place, mask=there, other=0.0))
    pooled_top, pooled = _sum_of_all(
        tl.load(parts[0] + 2 * each + place, mask=there, other=nothing[1]),
        tl.load(parts[0] + 3 * each + place, mask=there, other=0.0),
    )
    counts = tl.load(parts[1] + place, mask=there, other=nothing[2])
    if KIND == "maximum":
        count = tl.min(tl.where(tops == top[None, :], counts, NOWHERE), 0)
        count = tl.where(count == NOWHERE, -1, count)
        total += top
    else:
        count = tl.sum(counts, 0)
    if KIND == "logsumexp" or KIND == "mil":
        total = top + tl.log2(total) * LN2
    if KIND == "mil":
        pooled = pooled_top + tl.log2(pooled) * LN2
    tl.store(results[0] + i, total, mask=here)
    tl.store(results[1] + i, pooled, mask=here)
    tl.store(results[2] + i, count.to(tl.int64), mask=here)


@triton.jit
def _nothing(KIND: tl.constexpr):
    """Top, pooled top and count of no pairs."""
    NONE: tl.constexpr = float("-inf")
    if KIND == "mil":
        return NONE, NONE, 0
    elif KIND == "logsumexp":
        return NONE, 0.0, 0
    elif KIND == "maximum":
        return NONE, 0.0, NOWHERE
    else:
        return 0.0, 0.0, 0


@triton.jit
def _reduced(z, positive, hidden, margin, place, KIND: tl.constexpr):
    """The state of each row of a tile. margin: of each row; place: of each column."""
    pull, count = _sum_and_count(tl.where(positive, z, 0.0), positive)
    zero = tl.zeros_like(pull)
    if KIND == "logsumexp":
        top, total = _sum_of_exponentials(z, hidden)
        return top, total, zero, pull, count
    elif KIND == "mil":
        top, total = _sum_of_exponentials(z, hidden)
        pooled_top, pooled = _sum_of_exponentials(z, ~positive)
        return top, total, pooled_top, pooled, count
    elif KIND == "softplus":
        terms = _softplus(tl.where(positive, -z, z))
        return zero, tl.sum(tl.where(hidden, 0.0, terms), 1), zero, zero, count
    elif KIND == "margin":
        over = tl.where(hidden, 0.0, margin + tl.where(positive, -z, z))
        return zero, tl.sum(tl.where(over <= 0, 0.0, over), 1), zero, zero, count
    elif KIND == "hinge":
        over = tl.where(positive | hidden, 0.0, z + margin)
        total, count = _sum_and_count(tl.where(over <= 0, 0.0, over), over > 0)
        return zero, total, zero, pull, count
    else:
        negative = ~(positive | hidden)
        rivals = tl.where(negative, tl.where(z != z, float("inf"), z), float("-inf"))
        top = tl.max(rivals, 1)
        count = tl.min(tl.where(negative & (rivals == top[:, None]), place, NOWHERE), 1)
        return top, tl.sum(tl.where(negative & (z != z), z, 0.0), 1), zero, pull, count


@triton.jit
def _sum_and_count(x, counted):
    """Sums of rows, of the one and of the other."""
    # What is true of every x ties the flags to the registers that hold x. Else the compiler makes them a second time,
    # laid out its own way, for which there are too few.
    counted &= (x == x) | (x != x)
    return tl.sum(x, 1), tl.sum(counted.to(tl.int32), 1)


@triton.jit
def _sum_of_exponentials(z, hidden):
    z = tl.where(hidden, float("-inf"), z)
    top = tl.max(z, 1)
    return top, tl.sum(exp(z - _base(top)[:, None]), 1)


@triton.jit
def _base(top):
    """What is taken off a logit before its exponential: nothing where the greatest is no number."""
    return tl.where(tl.abs(top) == float("inf"), 0.0, top)


@triton.jit
def _sum_of_two(top, total, other_top, other_total):
    new_top = tl.maximum(top, other_top)
    base = _base(new_top)
    return new_top, total * exp(top - base) + other_total * exp(other_top - base)


@triton.jit
def _sum_of_all(tops, totals):
    top = tl.max(tops, 0)
    return top, tl.sum(totals * exp(tops - _base(top)[None, :]), 0)


@triton.jit
def _softplus(x):
    """max(x, 0) + log(1 + e), e = exp(-|x|), the latter by the series of 2 artanh(e / (2 + e)): exact for a small e."""
    e = exp(-tl.abs(x))
    s = e / (2.0 + e)
    q = s * s  # at most 1/9
    series = 1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13))))))
    return tl.maximum(x, 0.0) + 2 * s * series
