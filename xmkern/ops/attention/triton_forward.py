"""The forward kernels of attention in Triton: softmax online over tiles of keys, in base 2 (formulas: README.md).

An operand is a tuple (data, strides of batch, head and row); ``sizes`` is (heads, key heads, queries, keys, batches).
"""

import triton
import triton.language as tl

from xmkern.ops.attention.triton_masks import seen_keys
from xmkern.ops.attention.triton_scores import (
    DEPTH,
    LN2,
    LOG2E,
    NO_BIAS,
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


@triton.jit(do_not_specialize=["sizes", "numbers", "dropout", "splits"])
def forward_kernel(
    query, key, value, out, lse, splits, sizes, numbers, tensors, lists, bias, dropout, scale,
    SHAPE: tl.constexpr, MASK: tl.constexpr, LISTED: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr,
    PACKED: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """out [B, H, L, Dv], lse float32 [B, H, L]; one program for ROWS queries of a head.

    PACKED: one program for the queries of all heads that share a key head, row r being query r // group of the
    r % group-th of them. SPLIT: the keys are cut among ``splits`` programs, and ``out`` (float32) and ``lse`` have a
    leading axis for them, to be merged. The scale is
    positive, so that the largest product has the largest score.
    """
    heads, key_heads, queries, keys = sizes[0], sizes[1], sizes[2], sizes[3]
    group = heads // key_heads
    program = tl.program_id(0).to(tl.int64)
    split = program * 0
    if SPLIT:
        split, program = program % splits, program // splits
    if PACKED:
        batch, key_head = program // key_heads, program % key_heads
        tile = (program * 0).to(tl.int32)
        row = tl.arange(0, ROWS)
        i, here = row // group, row < queries * group
        head = key_head * group + row % group  # [ROWS]
        side_head = head[:, None]
        begin, end = tile, queries
        i = tl.where(here, i, queries)
    else:
        tiles = tl.cdiv(queries, ROWS)
        tile = tiles - 1 - (program % tiles).to(tl.int32)  # under a causal mask the long ones come first
        batch, head = program // tiles // heads, program // tiles % heads
        key_head = head // group
        i = tile * ROWS + tl.arange(0, ROWS)
        here = i < queries
        side_head = head
        begin = tile * ROWS
        end = tl.minimum(begin + ROWS, queries)

    base = matrix_of(query, batch, head, SHAPE)
    if PACKED:
        base = base[:, None]
    q = load_rows(base, i, query, here, SHAPE, DEPTH, True)
    key_base = matrix_of(key, batch, key_head, SHAPE)
    value_base = matrix_of(value, batch, key_head, SHAPE)

    scale = tl.cast(scale, tl.float32) * LOG2E
    top = tl.full((ROWS,), float("-inf"), tl.float32)  # the greatest score so far
    total = tl.zeros((ROWS,), tl.float32)
    PAD: tl.constexpr = SHAPE[3]  # Triton 3.6 takes no element of a constant tuple as part of a shape
    acc = tl.zeros((ROWS, PAD), tl.float32)
    plan = walk(tile, begin, end, keys, batch, lists, numbers, tensors, MASK, LISTED, KEYS, False)
    if SPLIT:
        plan = _share(plan, split.to(tl.int32), splits)
    for pass_ in tl.static_range(2):
        acc, total, top = _span(
            acc, total, top, q, key_base, value_base, key, value, i[:, None], batch, side_head, tile, plan,
            sizes, numbers, tensors, lists, bias, dropout, scale,
            SHAPE, MASK, LISTED, BIAS, DROPOUT, PRECISION, ROWS, KEYS, pass_ == 1,
        )  # fmt: skip

    # A row that sees nothing has total 0 and top -inf, which is its lse too.
    inverse = 1.0 / tl.where(total == 0, 1.0, total)
    if DROPOUT:
        inverse *= dropout[2]
    acc = acc * inverse[:, None]
    place = batch * heads + head  # of the matrix among all
    if SPLIT:
        place += split * sizes[4] * heads
        base = out[0] + place * queries * SHAPE[1]
    else:
        base = matrix_of(out, batch, head, SHAPE)
    if PACKED:
        base = base[:, None]
    store_rows(base, i, out, here, acc, SHAPE, VALUE_DEPTH)
    tl.store(lse + place * queries + i, (top + tl.log2(total)) * LN2, mask=here)


@triton.jit
def _share(plan, split, splits):
    """The part of a walk that one of several programs takes: some tiles of each loop, as even as they come."""
    whole, masked, first, skip_at, skip = plan
    whole_begin, whole_end = _part(whole, split, splits)
    masked_begin, masked_end = _part(masked, split, splits)
    return whole_end, masked_end, first, skip_at, skip, whole_begin, masked_begin


@triton.jit
def _part(count, split, splits):
    each = tl.cdiv(count, splits)
    return tl.minimum(split * each, count), tl.minimum((split + 1) * each, count)


@triton.jit
def _span(
    acc, total, top, q, key_base, value_base, key, value, i, batch, head, tile, plan,
    sizes, numbers, tensors, lists, bias, dropout, scale,
    SHAPE: tl.constexpr, MASK: tl.constexpr, LISTED: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One of the two loops over tiles of keys: those that a mask cuts, or those that it does not."""
    if LISTED:
        row, moving = batch * lists[2] + tile, tl.cdiv(sizes[3], KEYS)
    else:
        row, moving = batch, sizes[3]
    # Without a bias the factor is left for the exponent, where it joins the subtraction in one instruction.
    FACTORED: tl.constexpr = BIAS == NO_BIAS
    if len(plan) == 7:
        start = plan[6] if MASKED else plan[5]
    else:
        start = 0
    for n in tl.range(start, plan[1] if MASKED else plan[0]):
        first_key = tile_of(n, plan, row, lists, moving, MASKED, LISTED) * KEYS
        j = first_key + tl.arange(0, KEYS)
        there = seen_keys(j, batch, sizes, MASK, numbers, tensors) if MASKED else j < sizes[3]
        k = load_rows(key_base, j, key, there, SHAPE, DEPTH, MASKED)
        products = dot(q, tl.trans(k), None, PRECISION)
        s = scores(
            products, i, j[None, :], batch, head, sizes, 1.0 if FACTORED else scale, bias, numbers, tensors,
            MASK, BIAS, MASKED, False,
        )  # fmt: skip
        if FACTORED:
            new_top = tl.maximum(top, tl.max(s, 1) * scale)
        else:
            new_top = tl.maximum(top, tl.max(s, 1))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        if FACTORED:
            p = tl.exp2(s * scale - base[:, None])
        else:
            p = tl.exp2(s - base[:, None])
        shrink = tl.exp2(top - base)
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None]
        if DROPOUT:
            p = tl.where(kept(i, first_key, batch * sizes[0] + head, dropout, ROWS, KEYS), p, 0.0)
        v = load_rows(value_base, j, value, there, SHAPE, VALUE_DEPTH, MASKED)
        acc = dot(p.to(v.dtype), v, acc, PRECISION)
        top = new_top
    return acc, total, top


@triton.jit(do_not_specialize=["sizes", "splits"])
def merge_kernel(
    parts, part_lse, out, lse, sizes, splits,
    SHAPE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """parts float32 [splits, B, H, L, Dv], part_lse float32 [splits, B, H, L] -> out, lse; one program a row."""
    heads, queries = sizes[0], sizes[2]
    row = tl.program_id(0).to(tl.int64)
    rows = tl.num_programs(0).to(tl.int64)
    split, column = tl.arange(0, SPLITS), tl.arange(0, SHAPE[3])
    here = split < splits
    place = split.to(tl.int64) * rows + row
    each = tl.load(part_lse + place, mask=here, other=float("-inf"))
    top = tl.max(each, 0)
    weight = tl.exp2((each - tl.where(top == float("-inf"), 0.0, top)) * LOG2E)
    total = tl.sum(weight, 0)
    part = tl.load(
        parts + place[:, None] * SHAPE[1] + column[None, :],
        mask=here[:, None] & (column < SHAPE[1])[None, :], other=0.0,
    )  # fmt: skip
    result = tl.sum(part * weight[:, None], 0) / tl.where(total == 0, 1.0, total)
    batch, head, i = row // queries // heads, row // queries % heads, row % queries
    place = matrix_of(out, batch, head, SHAPE) + i * out[3] * SHAPE[4] + column
    tl.store(place, result.to(out[0].dtype.element_ty), mask=column < SHAPE[1])
    tl.store(lse + row, top + tl.log2(total) * LN2)
