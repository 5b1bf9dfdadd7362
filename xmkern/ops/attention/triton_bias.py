"""The gradient of a bias in Triton. It is the gradient of the scores, summed over whatever the bias does not vary with
(batch, heads, queries, keys, a diagonal, a bucket), in an order that the shapes alone fix.

A program sums over its *members*, the matrices (batch, head) of all that share one matrix of the bias, or its share of
them: the shares are added up afterwards.
"""

# ruff: noqa: RET505 -- Triton wants what is known when it compiles in both branches, and sums of tuples.
import triton
import triton.language as tl

from xmkern.ops.attention.triton_backward import load_lse
from xmkern.ops.attention.triton_masks import reach, seen_keys
from xmkern.ops.attention.triton_scores import (
    DEPTH,
    LOG2E,
    VALUE_DEPTH,
    kept,
    load_rows,
    matrix_of,
    scores,
)
from xmkern.ops.triton_product import dot

# What becomes of a tile of the gradient of the scores.
KEEP_TILE = tl.constexpr(0)  # one tile, summed over members
SUM_QUERIES = tl.constexpr(1)  # a column of tiles, summed to a number per key
SUM_KEYS = tl.constexpr(2)  # a row of tiles, summed to a number per query
KEEP_DIAGONAL = tl.constexpr(3)  # a diagonal of tiles, summed to one tile
SUM_BUCKETS = tl.constexpr(4)  # a row of tiles, summed to a number per bucket


@triton.jit
def _tile_gradient(
    tile_i, tile_j, member, bias_batch, bias_head, of, query, key, value, grad_out, rows,
    sizes, numbers, tensors, bias, dropout, scale,
    SHAPE: tl.constexpr, MASK: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """The gradient of the scores [ROWS, KEYS] of a tile of a member, 0 where there is nothing."""
    heads = sizes[0]
    batch, head = bias_batch + member // of[3], bias_head + member % of[3]
    key_head = head // (heads // sizes[1])
    i, j = tile_i * ROWS + tl.arange(0, ROWS), tile_j * KEYS + tl.arange(0, KEYS)
    here, there = i < sizes[2], seen_keys(j, batch, sizes, MASK, numbers, tensors)
    q = load_rows(matrix_of(query, batch, head, SHAPE), i, query, here, SHAPE, DEPTH, True)
    k = load_rows(matrix_of(key, batch, key_head, SHAPE), j, key, there, SHAPE, DEPTH, True)
    products = dot(q, tl.trans(k), None, PRECISION)
    s = scores(
        products, i[:, None], j[None, :], batch, head, sizes, scale * LOG2E, bias, numbers, tensors,
        MASK, BIAS, True, True,
    )  # fmt: skip
    place = (batch * heads + head) * sizes[2] + i
    p = tl.exp2(s - load_lse(rows, place, here)[:, None])
    go_base = matrix_of(grad_out, batch, head, SHAPE)
    go = load_rows(go_base, i, grad_out, here, SHAPE, VALUE_DEPTH, True)
    value_base = matrix_of(value, batch, key_head, SHAPE)
    v = load_rows(value_base, j, value, there, SHAPE, VALUE_DEPTH, True)
    dp = dot(go, tl.trans(v), None, PRECISION)
    if DROPOUT:
        keep = kept(i[:, None], tile_j * KEYS, batch * heads + head, dropout, ROWS, KEYS)
        dp = tl.where(keep, dp * dropout[2], 0.0)
    return p * (dp - tl.load(rows[1] + place, mask=here, other=0.0)[:, None])


@triton.jit
def _met(tile_i, tile_j, sizes, numbers, tensors, MASK: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr):
    """0 if no query of a tile can see any of its keys, else 1. Masks with tensors are not asked: they depend on the
    member."""
    if len(tensors) == 0:
        begin = tile_i * ROWS
        first, last, _, _ = reach(begin, tl.minimum(begin + ROWS, sizes[2]), sizes[3], 0, MASK, numbers, tensors, False)
        return ((first < tile_j * KEYS + KEYS) & (last > tile_j * KEYS)).to(tl.int32)
    else:
        return tile_i * 0 + 1


@triton.jit(do_not_specialize=["sizes", "numbers", "dropout", "of"])
def grad_bias_kernel(
    query, key, value, grad_out, rows, found, of, sizes, numbers, tensors, bias, dropout, scale,
    SHAPE: tl.constexpr, MASK: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, FORM: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """found: float32 [shares, Bb, Hb, and what FORM makes of a matrix]: [L, S]; [S]; [L]; [diagonals of tiles, ROWS,
    KEYS]; [rows of tiles, bins].

    of: (shares, Bb, Hb, heads among the members, members, bins).
    """
    shares, bias_batches, bias_heads, members, bins = of[0], of[1], of[2], of[4], of[5]
    queries, keys = sizes[2], sizes[3]
    row_tiles, column_tiles = tl.cdiv(queries, ROWS), tl.cdiv(keys, KEYS)
    if FORM == KEEP_TILE:
        places = row_tiles * column_tiles
    elif FORM == SUM_QUERIES:
        places = column_tiles
    elif FORM == SUM_KEYS:
        places = row_tiles
    elif FORM == KEEP_DIAGONAL:
        places = row_tiles + column_tiles - 1
    else:
        places = row_tiles * tl.cdiv(bins, BINS)
    program = tl.program_id(0).to(tl.int64)
    place = (program % places).to(tl.int32)
    matrix = program // places  # of found
    bias_head = matrix % bias_heads
    bias_batch = matrix // bias_heads % bias_batches
    share = (matrix // bias_heads // bias_batches).to(tl.int32)
    each = tl.cdiv(members, shares)
    first_member = share * each
    last_member = tl.minimum(first_member + each, members)
    count = tl.maximum(last_member - first_member, 0)
    scale = tl.cast(scale, tl.float32)
    if FORM == KEEP_TILE:
        tile_i, tile_j = place // column_tiles, place % column_tiles
        count *= _met(tile_i, tile_j, sizes, numbers, tensors, MASK, ROWS, KEYS)
        tile = tl.zeros((ROWS, KEYS), tl.float32)
        i, j = tile_i * ROWS + tl.arange(0, ROWS), tile_j * KEYS + tl.arange(0, KEYS)
        for n in range(count):
            tile += _tile_gradient(
                tile_i, tile_j, first_member + n, bias_batch, bias_head, of, query, key, value, grad_out, rows,
                sizes, numbers, tensors, bias, dropout, scale,
                SHAPE, MASK, BIAS, DROPOUT, PRECISION, ROWS, KEYS,
            )  # fmt: skip
        target = found + (matrix * queries + i[:, None]) * keys + j[None, :]
        tl.store(target, tile, mask=(i < queries)[:, None] & (j < keys)[None, :])
    elif FORM == SUM_QUERIES:
        j = place * KEYS + tl.arange(0, KEYS)
        total = tl.zeros((KEYS,), tl.float32)
        for n in range(count * row_tiles):
            tile = _tile_gradient(
                n % row_tiles, place, first_member + n // row_tiles, bias_batch, bias_head, of,
                query, key, value, grad_out, rows, sizes, numbers, tensors, bias, dropout, scale,
                SHAPE, MASK, BIAS, DROPOUT, PRECISION, ROWS, KEYS,
            )  # fmt: skip
            total += tl.sum(tile, 0)
        tl.store(found + matrix * keys + j, total, mask=j < keys)
    elif FORM == SUM_KEYS:
        i = place * ROWS + tl.arange(0, ROWS)
        total = tl.zeros((ROWS,), tl.float32)
        for n in range(count * column_tiles):
            tile = _tile_gradient(
                place, n % column_tiles, first_member + n // column_tiles, bias_batch, bias_head, of,
                query, key, value, grad_out, rows, sizes, numbers, tensors, bias, dropout, scale,
                SHAPE, MASK, BIAS, DROPOUT, PRECISION, ROWS, KEYS,
            )  # fmt: skip
            total += tl.sum(tile, 1)
        tl.store(found + matrix * queries + i, total, mask=i < queries)
    elif FORM == KEEP_DIAGONAL:
        # Tiles (i, j) with j - i = apart; ROWS == KEYS, so what lies on one diagonal of such a tile does in all.
        apart = place - (row_tiles - 1)
        first_row = tl.maximum(0, -apart)
        length = tl.minimum(row_tiles, column_tiles - apart) - first_row
        # Of a band, a diagonal meets all or nothing; of other masks the first tile sees at least what the others do.
        count *= _met(first_row, first_row + apart, sizes, numbers, tensors, MASK, ROWS, KEYS)
        tile = tl.zeros((ROWS, KEYS), tl.float32)
        for n in range(count * length):
            tile_i = first_row + n % length
            tile += _tile_gradient(
                tile_i, tile_i + apart, first_member + n // length, bias_batch, bias_head, of,
                query, key, value, grad_out, rows, sizes, numbers, tensors, bias, dropout, scale,
                SHAPE, MASK, BIAS, DROPOUT, PRECISION, ROWS, KEYS,
            )  # fmt: skip
        target = found + ((matrix * places + place) * ROWS + tl.arange(0, ROWS)[:, None]) * KEYS
        tl.store(target + tl.arange(0, KEYS)[None, :], tile)
    else:
        tile_i, first_bin = place % row_tiles, place // row_tiles * BINS
        bin_ = first_bin + tl.arange(0, BINS)
        total = tl.zeros((BINS,), tl.float32)
        i = tile_i * ROWS + tl.arange(0, ROWS)
        for tile_j in range(column_tiles):
            tile = tl.zeros((ROWS, KEYS), tl.float32)
            for n in range(count):
                tile += _tile_gradient(
                    tile_i, tile_j, first_member + n, bias_batch, bias_head, of, query, key, value, grad_out, rows,
                    sizes, numbers, tensors, bias, dropout, scale,
                    SHAPE, MASK, BIAS, DROPOUT, PRECISION, ROWS, KEYS,
                )  # fmt: skip
            j = tile_j * KEYS + tl.arange(0, KEYS)
            inside = (i < queries)[:, None] & (j < keys)[None, :]
            bucket = tl.load(bias[5] + i[:, None].to(tl.int64) * bias[6] + j[None, :], mask=inside, other=first_bin)
            tile = tl.where(inside, tile, 0.0)
            # Neighbouring places have neighbouring buckets: only those between the least and the greatest are met.
            low = tl.maximum(tl.min(tl.min(bucket, 1), 0), first_bin)
            high = tl.minimum(tl.max(tl.max(bucket, 1), 0), first_bin + BINS - 1)
            for b in range(low, high + 1):
                here = tl.sum(tl.sum(tl.where(bucket == b, tile, 0.0), 1), 0)
                total += tl.where(bin_ == b, here, 0.0)
        tl.store(found + (matrix * row_tiles + tile_i) * bins + bin_, total, mask=bin_ < bins)


@triton.jit(do_not_specialize=["sizes", "row_tiles", "places"])
def fold_diagonals_kernel(found, grad, sizes, row_tiles, places, T: tl.constexpr, CHUNK: tl.constexpr):
    """found float32 [matrices, places, T, T], what KEEP_DIAGONAL made -> grad float32 [matrices, L + S - 1].

    A diagonal of all crosses two neighbouring tiles: at its left end the rest of one, then the next. Row by row, always
    one of them has the element.
    """
    length = sizes[2] + sizes[3] - 1
    chunks = tl.cdiv(length, CHUNK)
    program = tl.program_id(0).to(tl.int64)
    matrix = program // chunks
    at = (program % chunks).to(tl.int32) * CHUNK + tl.arange(0, CHUNK)
    apart = at - (sizes[2] - 1) + row_tiles * T  # key - query, made positive
    tile, rest = apart // T - 1, apart % T  # of the tiles from apart 1 - row_tiles on
    total = tl.zeros((CHUNK,), tl.float32)
    for i in range(T):
        column = i + rest
        own = tl.where(column < T, tile, tile + 1)
        place = ((matrix * places + own) * T + i) * T + column % T
        total += tl.load(found + place, mask=(at < length) & (own >= 0) & (own < places), other=0.0)
    tl.store(grad + matrix * length + at, total, mask=at < length)
