"""The Triton kernels of Hamming search. Importing this module imports Triton.

A neighbour is one int64 *score*, ``-(distance << 40 | index)``: larger is better, and the order of scores is the order
by (distance, index) reversed, so that the largest scores are the answer and no two are alike.
"""

import triton
import triton.language as tl

INDEX_BITS = tl.constexpr(40)
FAR = tl.constexpr(1 << 20)  # farther than any distance: the place of a neighbour that is not there


@triton.jit
def _popcount(x):
    """The set bits of each uint32. LLVM knows this idiom and makes it one ``popc``."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return ((x * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _word(codes, rows, valid, w, WIDTH: tl.constexpr, ALIGNED: tl.constexpr):
    """Word ``w`` of the codes [rows, WIDTH] in bytes, as uint32, with zeros past the end of a code."""
    if ALIGNED:
        return tl.load(codes + rows * (WIDTH // 4) + w, mask=valid, other=0).to(tl.uint32, bitcast=True)
    word = tl.zeros_like(rows).to(tl.uint32)
    for byte in tl.static_range(4):
        column = tl.zeros_like(rows) + (4 * w + byte)
        value = tl.load(codes + rows * WIDTH + column, mask=valid & (column < WIDTH), other=0)
        word |= value.to(tl.uint32) << (8 * byte)
    return word


@triton.jit
def _distances(
    a, b, a_rows, b_rows, a_valid, b_valid,
    WIDTH: tl.constexpr, ALIGNED: tl.constexpr, A_TILE: tl.constexpr, B_TILE: tl.constexpr,
):  # fmt: skip
    """-> int32 [A_TILE, B_TILE]"""
    total = tl.zeros((A_TILE, B_TILE), tl.int32)
    for w in range((WIDTH + 3) // 4):
        a_word = _word(a, a_rows, a_valid, w, WIDTH, ALIGNED)
        b_word = _word(b, b_rows, b_valid, w, WIDTH, ALIGNED)
        total += _popcount(a_word[:, None] ^ b_word[None, :])
    return total


@triton.jit
def distance_kernel(
    a, b, out, a_count, b_count,
    WIDTH: tl.constexpr, ALIGNED: tl.constexpr, A_TILE: tl.constexpr, B_TILE: tl.constexpr,
):  # fmt: skip
    """a [a_count, WIDTH], b [b_count, WIDTH] -> out int32 [a_count, b_count]; one program a tile."""
    a_count, b_count = tl.cast(a_count, tl.int64), tl.cast(b_count, tl.int64)
    program = tl.program_id(0).to(tl.int64)
    columns = tl.cdiv(b_count, B_TILE)
    a_rows = (program // columns) * A_TILE + tl.arange(0, A_TILE)
    b_rows = (program % columns) * B_TILE + tl.arange(0, B_TILE)
    a_valid, b_valid = a_rows < a_count, b_rows < b_count
    distance = _distances(a, b, a_rows, b_rows, a_valid, b_valid, WIDTH, ALIGNED, A_TILE, B_TILE)
    tl.store(out + a_rows[:, None] * b_count + b_rows[None, :], distance, a_valid[:, None] & b_valid[None, :])


@triton.jit
def _score(distance, index):
    return -((distance.to(tl.int64) << INDEX_BITS) | index)


@triton.jit
def _nobody(rows: tl.constexpr, K: tl.constexpr):
    return tl.full((rows, K), 0, tl.int64) - (tl.full((rows, K), FAR, tl.int64) << INDEX_BITS)


@triton.jit
def _merge(best, scores, K: tl.constexpr):
    """best [rows, K] ascending, scores [rows, any] -> the K largest of both, ascending.

    Of two rows of K, one ascending and one descending, the larger of each pair are the K largest of all, and they
    rise and fall but once: one merging step of the sorting network puts them in order.
    """
    return tl.bitonic_merge(tl.maximum(best, tl.topk(scores, K)))


@triton.jit
def span_topk_kernel(
    queries, codes, found, query_count, code_count, span, spans,
    WIDTH: tl.constexpr, ALIGNED: tl.constexpr, Q_TILE: tl.constexpr, N_TILE: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The best K of each span of ``span`` codes -> found int64 [query_count, spans, K], scores in ascending order.

    One program takes Q_TILE queries and one span. Neighbouring programs share a span, which so stays in the cache.
    """
    query_count, code_count = tl.cast(query_count, tl.int64), tl.cast(code_count, tl.int64)
    program = tl.program_id(0).to(tl.int64)
    groups = tl.cdiv(query_count, Q_TILE)
    which = program // groups
    q_rows = (program % groups) * Q_TILE + tl.arange(0, Q_TILE)
    q_valid = q_rows < query_count
    first = which * span
    end = tl.minimum(first + span, code_count)

    best = _nobody(Q_TILE, K)
    worst = tl.full((Q_TILE,), FAR, tl.int32)  # the distance of the K-th neighbour so far
    while first < end:
        n_rows = first + tl.arange(0, N_TILE).to(tl.int64)
        n_valid = n_rows < end
        distance = _distances(queries, codes, q_rows, n_rows, q_valid, n_valid, WIDTH, ALIGNED, Q_TILE, N_TILE)
        distance = tl.where(q_valid[:, None] & n_valid[None, :], distance, FAR)
        # Indices only grow, so an equal distance comes too late.
        if tl.max((distance < worst[:, None]).to(tl.int32)) > 0:
            best = _merge(best, _score(distance, n_rows[None, :]), K)
            worst = (-tl.min(best, 1) >> INDEX_BITS).to(tl.int32)
        first += N_TILE

    place = (q_rows * spans + which)[:, None] * K + tl.arange(0, K)[None, :]
    tl.store(found + place, best, mask=q_valid[:, None])


@triton.jit
def merge_spans_kernel(
    found, distances, indices, length, k, TILE: tl.constexpr, K: tl.constexpr
):  # fmt: skip
    """found [Q, length] scores in any order -> distances int32 [Q, k], indices int64 [Q, k]; one program a query."""
    query = tl.program_id(0).to(tl.int64)
    length, k = tl.cast(length, tl.int64), tl.cast(k, tl.int64)
    best = _nobody(1, K)
    first = tl.zeros_like(query)
    while first < length:
        place = first + tl.arange(0, TILE).to(tl.int64)
        scores = tl.load(found + query * length + place, mask=place < length, other=-(1 << 62))
        best = _merge(best, scores[None, :], K)
        first += TILE
    key = tl.reshape(-best, (K,))
    distance = key >> INDEX_BITS
    there = distance < FAR
    rank = K - 1 - tl.arange(0, K)  # best is ascending in score: the nearest comes last
    out = query * k + rank
    index = key & ((tl.full((K,), 1, tl.int64) << INDEX_BITS) - 1)
    tl.store(distances + out, tl.where(there, distance, -1).to(tl.int32), mask=rank < k)
    tl.store(indices + out, tl.where(there, index, -1), mask=rank < k)
