"""The backward kernels of attention in Triton: scores are computed again, once along the keys and once along the
queries, so that every sum has one program and a fixed order, and nothing is added atomically.

``rows`` is (lse, delta), float32 [B, H, L]; delta is what the softmax subtracts from the gradient of a probability:
<grad_out, out> - grad_lse.
"""

import triton
import triton.language as tl

from xmkern.ops.attention.triton_masks import seen_keys
from xmkern.ops.attention.triton_scores import (
    DEPTH,
    LOG2E,
    VALUE_DEPTH,
    kept,
    load_rows,
    matrix_of,
    scores,
    store_rows,
    tile_of,
    walk,
)
from xmkern.ops.triton_product import dot


@triton.jit
def load_lse(rows, place, here):
    """In base 2, and such that what is not there, or sees nothing, gets probability 0."""
    lse = tl.load(rows[0] + place, mask=here, other=float("inf"))
    return tl.where(lse == float("-inf"), float("inf"), lse * LOG2E)


@triton.jit(do_not_specialize=["sizes", "numbers", "dropout"])
def grad_query_kernel(
    query, key, value, grad_out, rows, out, grad_lse, grad_query, sizes, numbers, tensors, lists, bias, dropout, scale,
    SHAPE: tl.constexpr, MASK: tl.constexpr, LISTED: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """grad_query [B, H, L, D], and delta for the kernels to come; one program for ROWS queries of a head.

    grad_lse: (data, strides of its axes) or ().
    """
    heads, queries, keys = sizes[0], sizes[2], sizes[3]
    tiles = tl.cdiv(queries, ROWS)
    program = tl.program_id(0).to(tl.int64)
    tile = tiles - 1 - (program % tiles).to(tl.int32)
    batch, head = program // tiles // heads, program // tiles % heads
    key_head = head // (heads // sizes[1])
    i = tile * ROWS + tl.arange(0, ROWS)
    here = i < queries
    q = load_rows(matrix_of(query, batch, head, SHAPE), i, query, here, SHAPE, DEPTH, True)
    go_base = matrix_of(grad_out, batch, head, SHAPE)
    go = load_rows(go_base, i, grad_out, here, SHAPE, VALUE_DEPTH, True)
    place = (batch * heads + head) * queries + i
    lse = load_lse(rows, place, here)
    o = load_rows(matrix_of(out, batch, head, SHAPE), i, out, here, SHAPE, VALUE_DEPTH, True)
    delta = tl.sum(o.to(tl.float32) * go.to(tl.float32), 1)
    if len(grad_lse) > 0:
        lse_place = grad_lse[0] + batch * grad_lse[1] + head * grad_lse[2] + i.to(tl.int64) * grad_lse[3]
        delta -= tl.load(lse_place, mask=here, other=0.0).to(tl.float32)
    delta = tl.where(lse == float("inf"), 0.0, delta)
    tl.store(rows[1] + place, delta, mask=here)
    key_base = matrix_of(key, batch, key_head, SHAPE)
    value_base = matrix_of(value, batch, key_head, SHAPE)

    scale = tl.cast(scale, tl.float32)
    PAD: tl.constexpr = SHAPE[2]  # Triton 3.6 takes no element of a constant tuple as part of a shape
    acc = tl.zeros((ROWS, PAD), tl.float32)
    plan = walk(
        tile, tile * ROWS, tl.minimum(tile * ROWS + ROWS, queries), keys, batch, lists, numbers, tensors,
        MASK, LISTED, KEYS, False,
    )  # fmt: skip
    for pass_ in tl.static_range(2):
        acc = _grad_query_span(
            acc, q, go, lse, delta, key_base, value_base, key, value, i[:, None], batch, head, tile, plan,
            sizes, numbers, tensors, lists, bias, dropout, scale * LOG2E,
            SHAPE, MASK, LISTED, BIAS, DROPOUT, PRECISION, ROWS, KEYS, pass_ == 1,
        )  # fmt: skip
    base = matrix_of(grad_query, batch, head, SHAPE)
    store_rows(base, i, grad_query, here, acc * scale, SHAPE, DEPTH)


@triton.jit
def _grad_query_span(
    acc, q, go, lse, delta, key_base, value_base, key, value, i, batch, head, tile, plan,
    sizes, numbers, tensors, lists, bias, dropout, scale,
    SHAPE: tl.constexpr, MASK: tl.constexpr, LISTED: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    if LISTED:
        row, moving = batch * lists[2] + tile, tl.cdiv(sizes[3], KEYS)
    else:
        row, moving = batch, sizes[3]
    for n in tl.range(0, plan[1] if MASKED else plan[0]):
        first_key = tile_of(n, plan, row, lists, moving, MASKED, LISTED) * KEYS
        j = first_key + tl.arange(0, KEYS)
        there = seen_keys(j, batch, sizes, MASK, numbers, tensors) if MASKED else j < sizes[3]
        k = load_rows(key_base, j, key, there, SHAPE, DEPTH, MASKED)
        products = dot(q, tl.trans(k), None, PRECISION)
        s = scores(
            products, i, j[None, :], batch, head, sizes, scale, bias, numbers, tensors, MASK, BIAS, MASKED, False
        )
        p = tl.exp2(s - lse[:, None])
        v = load_rows(value_base, j, value, there, SHAPE, VALUE_DEPTH, MASKED)
        dp = dot(go, tl.trans(v), None, PRECISION)
        if DROPOUT:
            keep = kept(i, first_key, batch * sizes[0] + head, dropout, ROWS, KEYS)
            dp = tl.where(keep, dp * dropout[2], 0.0)
        ds = p * (dp - delta[:, None])
        acc = dot(ds.to(k.dtype), k, acc, PRECISION)
    return acc


@triton.jit(do_not_specialize=["sizes", "numbers", "dropout"])
def grad_key_value_kernel(
    query, key, value, grad_out, rows, grad_key, grad_value, sizes, numbers, tensors, lists, bias, dropout, scale,
    SHAPE: tl.constexpr, MASK: tl.constexpr, LISTED: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """grad_key [B, Hk, S, D], grad_value [B, Hk, S, Dv]; one program for KEYS keys of a key head, over the queries of
    all heads that read it."""
    key_heads, queries, keys = sizes[1], sizes[2], sizes[3]
    tiles = tl.cdiv(keys, KEYS)
    program = tl.program_id(0).to(tl.int64)
    tile = (program % tiles).to(tl.int32)
    batch, key_head = program // tiles // key_heads, program // tiles % key_heads
    j = tile * KEYS + tl.arange(0, KEYS)
    here = j < keys
    seen = seen_keys(j, batch, sizes, MASK, numbers, tensors)
    k = load_rows(matrix_of(key, batch, key_head, SHAPE), j, key, seen, SHAPE, DEPTH, True)
    value_base = matrix_of(value, batch, key_head, SHAPE)
    v = load_rows(value_base, j, value, seen, SHAPE, VALUE_DEPTH, True)

    scale = tl.cast(scale, tl.float32)
    PAD: tl.constexpr = SHAPE[2]
    VALUE_PAD: tl.constexpr = SHAPE[3]
    dk = tl.zeros((KEYS, PAD), tl.float32)
    dv = tl.zeros((KEYS, VALUE_PAD), tl.float32)
    plan = walk(
        tile, tile * KEYS, tl.minimum(tile * KEYS + KEYS, keys), queries, batch, lists, numbers, tensors,
        MASK, LISTED, ROWS, True,
    )  # fmt: skip
    for pass_ in tl.static_range(2):
        dk, dv = _grad_key_value_span(
            dk, dv, k, v, query, grad_out, rows, j[:, None], batch, key_head, tile, plan,
            sizes, numbers, tensors, lists, bias, dropout, scale * LOG2E,
            SHAPE, MASK, LISTED, BIAS, DROPOUT, PRECISION, ROWS, KEYS, pass_ == 1,
        )  # fmt: skip
    base = matrix_of(grad_key, batch, key_head, SHAPE)
    store_rows(base, j, grad_key, here, dk * scale, SHAPE, DEPTH)
    if DROPOUT:
        dv = dv * dropout[2]
    base = matrix_of(grad_value, batch, key_head, SHAPE)
    store_rows(base, j, grad_value, here, dv, SHAPE, VALUE_DEPTH)


@triton.jit
def _grad_key_value_span(
    dk, dv, k, v, query, grad_out, rows, j, batch, key_head, tile, plan,
    sizes, numbers, tensors, lists, bias, dropout, scale,
    SHAPE: tl.constexpr, MASK: tl.constexpr, LISTED: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Products stand on their side, keys by queries, as the sums over queries want them."""
    group = sizes[0] // sizes[1]
    if LISTED:
        row, moving = batch * lists[2] + tile, tl.cdiv(sizes[2], ROWS)
    else:
        row, moving = batch, sizes[2]
    count = plan[1] if MASKED else plan[0]
    for m in tl.range(0, count * group):
        head = key_head * group + m // count
        first_query = tile_of(m % count, plan, row, lists, moving, MASKED, LISTED) * ROWS
        i = first_query + tl.arange(0, ROWS)
        here = i < sizes[2]
        q_base = matrix_of(query, batch, head, SHAPE)
        q = load_rows(q_base, i, query, here, SHAPE, DEPTH, MASKED)
        place = (batch * sizes[0] + head) * sizes[2] + i
        lse = load_lse(rows, place, here)
        products = dot(k, tl.trans(q), None, PRECISION)
        s = scores(products, i[None, :], j, batch, head, sizes, scale, bias, numbers, tensors, MASK, BIAS, MASKED, True)
        p = tl.exp2(s - lse[None, :])
        go_base = matrix_of(grad_out, batch, head, SHAPE)
        go = load_rows(go_base, i, grad_out, here, SHAPE, VALUE_DEPTH, MASKED)
        dp = dot(v, tl.trans(go), None, PRECISION)
        dropped = p
        if DROPOUT:
            keep = tl.trans(kept(i[:, None], tile * KEYS, batch * sizes[0] + head, dropout, ROWS, KEYS))
            dropped = tl.where(keep, p, 0.0)
            dp = tl.where(keep, dp * dropout[2], 0.0)
        dv = dot(dropped.to(go.dtype), go, dv, PRECISION)
        ds = p * (dp - tl.load(rows[1] + place, mask=here, other=0.0)[None, :])
        dk = dot(ds.to(q.dtype), q, dk, PRECISION)
    return dk, dv
