"""What the attention kernels in Triton share: reading tiles, scores in base 2, dropout, and the walk over tiles."""

# ruff: noqa: RET505 -- Triton wants what is known when it compiles in both branches, and sums of tuples.
import triton
import triton.language as tl

from xmkern.ops.attention.triton_masks import reach, visible

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

# SHAPE is (head size of queries and keys, head size of values, both padded to powers of two, unit of strides); an
# operand has the one or the other head size.
DEPTH = tl.constexpr(0)
VALUE_DEPTH = tl.constexpr(1)

# Forms of a bias, by what it varies with.
NO_BIAS = tl.constexpr(0)
OVER_KEYS = tl.constexpr(1)
OVER_QUERIES = tl.constexpr(2)
OVER_BOTH = tl.constexpr(3)  # with a stride for each; a Toeplitz one has strides -s and s
BUCKETED = tl.constexpr(4)


@triton.jit
def matrix_of(x, batch, head, SHAPE: tl.constexpr):
    """Where the matrix of a batch and a head begins, in an operand (data, strides of batch, head and row).

    Strides are counted in units (unit_of in triton_arguments.py), and the compiler sees that they divide by one: so
    rows of 40 numbers are read in vectors as well.
    """
    return x[0] + (batch * x[1] + head * x[2]) * SHAPE[4]


@triton.jit
def load_rows(base, rows, x, here, SHAPE: tl.constexpr, WHICH: tl.constexpr, BOUNDED: tl.constexpr):
    """-> [rows, pad]: rows of a matrix, zeros past their end and (BOUNDED) in rows that are not ``here``.

    base: where the matrix of the operand x begins, or a column of such. rows int32 [rows], here bool [rows].
    """
    SIZE: tl.constexpr = SHAPE[WHICH]
    PAD: tl.constexpr = SHAPE[2 + WHICH]
    column = tl.arange(0, PAD)[None, :]
    place = base + rows[:, None].to(tl.int64) * x[3] * SHAPE[4] + column
    if BOUNDED:
        if SIZE == PAD:
            return tl.load(place, mask=here[:, None], other=0.0)
        else:
            return tl.load(place, mask=here[:, None] & (column < SIZE), other=0.0)
    else:
        if SIZE == PAD:
            return tl.load(place)
        else:
            return tl.load(place, mask=column < SIZE, other=0.0)


@triton.jit
def store_rows(base, rows, x, here, result, SHAPE: tl.constexpr, WHICH: tl.constexpr):
    column = tl.arange(0, SHAPE[2 + WHICH])[None, :]
    place = base + rows[:, None].to(tl.int64) * x[3] * SHAPE[4] + column
    tl.store(place, result.to(place.dtype.element_ty), mask=here[:, None] & (column < SHAPE[WHICH]))


@triton.jit
def bias_at(i, j, here, there, batch, head, bias, BIAS: tl.constexpr):
    """The bias for queries i and keys j, one of them a row and one a column; there may be keys past the last unless
    ``there`` is None, and queries past the last.

    bias: (data, strides of batch, head, query and key, and of BUCKETED the buckets and the stride of their rows).
    """
    base = bias[0] + batch * bias[1] + head * bias[2]
    if BIAS == OVER_KEYS:
        if there is None:
            return tl.load(base + j.to(tl.int64) * bias[4])
        else:
            return tl.load(base + j.to(tl.int64) * bias[4], mask=there, other=0.0)
    elif BIAS == OVER_QUERIES:
        return tl.load(base + i.to(tl.int64) * bias[3], mask=here, other=0.0)
    else:
        inside = here
        if there is not None:
            inside = here & there
        if BIAS == OVER_BOTH:
            place = base + i.to(tl.int64) * bias[3] + j.to(tl.int64) * bias[4]
        else:
            bucket = tl.load(bias[5] + i.to(tl.int64) * bias[6] + j, mask=inside, other=0)
            place = base + bucket.to(tl.int64) * bias[4]
        return tl.load(place, mask=inside, other=0.0)


@triton.jit
def scores(
    products, i, j, batch, head, sizes, scale, bias, numbers, tensors,
    MASK: tl.constexpr, BIAS: tl.constexpr, MASKED: tl.constexpr, KEYS_END: tl.constexpr,
):  # fmt: skip
    """products of queries and keys -> scores in base 2, as the scale is; -inf where hidden.

    MASKED: the mask, or the last key, cuts this tile. KEYS_END: keys past the last are met even where it does not.
    """
    here, there = i < sizes[2], j < sizes[3]
    result = products * scale
    if BIAS != NO_BIAS:
        result += bias_at(i, j, here, there if MASKED or KEYS_END else None, batch, head, bias, BIAS) * LOG2E
    if MASKED:
        seen = there
        if len(MASK) > 0:
            seen &= visible(i, j, here, there, batch, head, MASK, numbers, tensors)
        result = tl.where(seen, result, float("-inf"))
    return result


@triton.jit
def kept(i, first_key, matrix, dropout, ROWS: tl.constexpr, KEYS: tl.constexpr):
    """Which elements dropout keeps: bool [ROWS, KEYS].

    i int32 [ROWS, 1]; first_key a multiple of KEYS, which is 32 or a multiple of 64; matrix int64: batch * heads +
    head, or a column of them; dropout: (seed, threshold, scale of what is kept, counter of
    key 0). Of 64 neighbouring keys, counter c
    gives the words of the keys c, c + 16, c + 32, c + 48.
    """
    COUNTERS: tl.constexpr = KEYS // 4 if KEYS >= 64 else 16
    counter = (dropout[3] + first_key // 64 * 16 + tl.arange(0, COUNTERS))[None, :]
    zero = tl.zeros((ROWS, COUNTERS), tl.int32)
    low, high = (matrix & 0xFFFFFFFF).to(tl.uint32), (matrix >> 32).to(tl.uint32)
    a, b, c, d = tl.philox(
        tl.load(dropout[0]),
        (zero + counter).to(tl.uint32), (zero + i).to(tl.uint32),
        zero.to(tl.uint32) + low, zero.to(tl.uint32) + high,
    )  # fmt: skip
    threshold = dropout[1].to(tl.uint32)
    if KEYS >= 64:
        # [.., 16, p, q] is word 2 p + q
        words = tl.join(
            tl.join((a >= threshold).to(tl.int8), (c >= threshold).to(tl.int8)),
            tl.join((b >= threshold).to(tl.int8), (d >= threshold).to(tl.int8)),
        )
        words = tl.permute(tl.reshape(words, (ROWS, KEYS // 64, 16, 4)), (0, 1, 3, 2))
    else:
        left = zero + first_key // 32 % 2 == 0
        words = tl.join(
            (tl.where(left, a, c) >= threshold).to(tl.int8), (tl.where(left, b, d) >= threshold).to(tl.int8)
        )
        words = tl.permute(words, (0, 2, 1))
    return tl.reshape(words, (ROWS, KEYS)) != 0


@triton.jit
def walk(
    tile, begin, end, size, batch, lists, numbers, tensors,
    MASK: tl.constexpr, LISTED: tl.constexpr, STEP: tl.constexpr, OF_KEYS: tl.constexpr,
):  # fmt: skip
    """Which tiles of STEP keys the queries begin to end visit (OF_KEYS: tiles of queries, for keys): in a first loop
    those that no mask thins out, in a second the others.

    -> (whole, masked, first, skip_at, skip), for ``tile_of``: how many tiles each loop has; and, unless they are
    LISTED, the first of the tiles; the second loop leaves out ``skip`` tiles after ``skip_at`` of its own.
    """
    if LISTED:
        # lists: (lists, counts, stride of a batch in tiles)
        row = batch * lists[2] + tile
        whole, masked = tl.load(lists[1] + row * 2), tl.load(lists[1] + row * 2 + 1)
        return whole, masked, tile * 0, tile * 0, tile * 0
    else:
        first, last, all_first, all_last = reach(begin, end, size, batch, MASK, numbers, tensors, OF_KEYS)
        last = tl.maximum(last, first)
        first_tile, last_tile = first // STEP, tl.where(last > first, tl.cdiv(last, STEP), first // STEP)
        all_first_tile, all_last_tile = tl.cdiv(all_first, STEP), all_last // STEP
        whole = tl.maximum(all_last_tile - all_first_tile, 0)
        all_first_tile = tl.where(whole > 0, all_first_tile, last_tile)
        return whole, last_tile - first_tile - whole, first_tile, all_first_tile - first_tile, whole


@triton.jit
def tile_of(n, plan, row, lists, moving, MASKED: tl.constexpr, LISTED: tl.constexpr):
    """The n-th tile of a loop. moving: the number of all tiles along the way; row: of the lists."""
    if LISTED:
        if MASKED:
            return tl.load(lists[0] + (row * 2 + 1) * moving + n)
        else:
            return tl.load(lists[0] + row * 2 * moving + n)
    else:
        if MASKED:
            return plan[2] + n + tl.where(n >= plan[3], plan[4], 0)
        else:
            return plan[2] + plan[3] + n
