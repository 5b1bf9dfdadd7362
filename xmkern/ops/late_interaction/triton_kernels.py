"""The Triton kernels of late interaction, of one side at a time: its tokens' largest similarities, and its gradient.

``own`` is a sample of that side, and ``n`` are samples of the other, all of whose tokens a tile holds, or some of one.
An operand is (data, strides of sample and token in units of UNIT numbers); a mask is () or (data, stride of sample);
scores are (data, stride of the own side's samples, of the other's), and winners likewise, their tokens being dense.
"""

import triton
import triton.language as tl

from xmkern.ops.triton_product import dot, product

NOWHERE = tl.constexpr(2**31 - 1)


@triton.jit(do_not_specialize=["sizes"])
def best_kernel(
    x, y, x_mask, y_mask, scores, winners, sizes,
    TOKENS: tl.constexpr, EVEN: tl.constexpr, UNIT: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Sums over x's tokens of their largest similarity -> scores; which token of y that is -> winners.

    One program takes one sample of x and a span of y's. sizes: (tokens of a sample of x, samples of y, tokens of such,
    units of depth, samples in a span, spans).
    """
    x_tokens, y_samples, y_tokens, depth, of_span, spans = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]
    SAMPLES: tl.constexpr = COLUMNS // TOKENS  # of y in a tile
    own, span = (tl.program_id(0) // spans).to(tl.int64), tl.program_id(0) % spans
    column = tl.arange(0, COLUMNS)
    for first in tl.range(span * of_span, tl.minimum((span + 1) * of_span, y_samples), SAMPLES):
        n = first + tl.arange(0, SAMPLES)
        in_y = n < y_samples
        y_columns = y[0] + tl.minimum(first + column // TOKENS, y_samples - 1).to(tl.int64) * y[1] * UNIT
        total = tl.zeros((SAMPLES,), tl.float32)
        for row in tl.range(0, x_tokens, ROWS):
            r = row + tl.arange(0, ROWS)
            x_rows = x[0] + (own * x[1] + tl.minimum(r, x_tokens - 1).to(tl.int64) * x[2]) * UNIT
            top, best = tl.full((ROWS, SAMPLES), float("-inf"), tl.float32), tl.zeros((ROWS, SAMPLES), tl.float32)
            place = tl.full((ROWS, SAMPLES), NOWHERE, tl.int32)
            for token in tl.range(0, y_tokens, TOKENS):
                y_rows = y_columns + tl.minimum(token + column % TOKENS, y_tokens - 1).to(tl.int64) * y[2] * UNIT
                similarity = product(x_rows, y_rows, depth, EVEN, UNIT, CHUNK, PRECISION)
                similarity = tl.reshape(similarity, (ROWS, SAMPLES, TOKENS))
                t = token + tl.arange(0, TOKENS)
                seen = visible(y_mask, n[:, None], t[None, :], in_y[:, None] & (t < y_tokens)[None, :])[None, :, :]
                t = t[None, None, :]
                ranked = tl.where(similarity != similarity, float("inf"), similarity)  # NaN is larger than all numbers
                ranked = tl.where(seen, ranked, float("-inf"))
                found_top = tl.max(ranked, 2)
                found = tl.min(tl.where(seen & (ranked == found_top[:, :, None]), t, NOWHERE), 2)
                found_best = tl.sum(tl.where(t == found[:, :, None], similarity, 0.0), 2)
                better = (found_top > top) | (place == NOWHERE)
                top, best = tl.where(better, found_top, top), tl.where(better, found_best, best)
                place = tl.where(better, found, place)
            in_x = r < x_tokens
            counted = visible(x_mask, own, r, in_x)[:, None] & (place != NOWHERE)
            total += tl.sum(tl.where(counted, best, 0.0), 0)
            target = winners[0] + own * winners[1] + n.to(tl.int64)[None, :] * winners[2] + r[:, None]
            kind = winners[0].dtype.element_ty
            tl.store(target, tl.where(counted, place, 0).to(kind), mask=in_x[:, None] & in_y[None, :])
        tl.store(scores[0] + own * scores[1] + n.to(tl.int64) * scores[2], total, mask=in_y)


@triton.jit(do_not_specialize=["sizes"])
def gradient_kernel(
    y, x_mask, y_mask, of_own, of_others, grad, sizes,
    TOKENS: tl.constexpr, UNIT: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The gradient of x: slopes of similarities, which winners tell, times the tokens of y -> grad [spans, .., .., ..].

    One program takes some tokens of a sample of x, DEPTH of their numbers, and a span of y's samples. of_own: the
    winners of x's tokens and the gradients of their scores, or (); of_others: likewise of y's tokens. sizes: (samples
    of x, tokens of such, samples of y, tokens of such, units of depth, samples in a span, spans).
    """
    x_samples, x_tokens, y_samples, y_tokens = sizes[0], sizes[1], sizes[2], sizes[3]
    depth, of_span, spans = sizes[4] * UNIT, sizes[5], sizes[6]
    SAMPLES: tl.constexpr = COLUMNS // TOKENS
    span, program = tl.program_id(0) % spans, tl.program_id(0) // spans
    parts, tiles = tl.cdiv(depth, DEPTH), tl.cdiv(x_tokens, ROWS)
    own = (program // parts // tiles).to(tl.int64)
    r = program // parts % tiles * ROWS + tl.arange(0, ROWS)
    d = program % parts * DEPTH + tl.arange(0, DEPTH)
    in_x = r < x_tokens
    row_seen = visible(x_mask, own, r, in_x)[:, None, None]
    column = tl.arange(0, COLUMNS)
    acc = tl.zeros((ROWS, DEPTH), tl.float32)
    for first in tl.range(span * of_span, tl.minimum((span + 1) * of_span, y_samples), SAMPLES):
        n = first + tl.arange(0, SAMPLES)
        in_y = n < y_samples
        sample = first + column // TOKENS
        for token in tl.range(0, y_tokens, TOKENS):
            t = token + tl.arange(0, TOKENS)
            seen = visible(y_mask, n[:, None], t[None, :], in_y[:, None] & (t < y_tokens)[None, :])
            slopes = tl.zeros((ROWS, SAMPLES, TOKENS), tl.float32)
            if len(of_own) > 0:
                winners, scores = of_own[0], of_own[1]
                place = winners[0] + own * winners[1] + n.to(tl.int64)[None, :] * winners[2] + r[:, None]
                won = tl.load(place, mask=in_x[:, None] & in_y[None, :], other=0).to(tl.int32)
                grads = tl.load(scores[0] + own * scores[1] + n.to(tl.int64) * scores[2], mask=in_y, other=0.0)
                slopes += tl.where(won[:, :, None] == t[None, None, :], grads[None, :, None], 0.0)
            if len(of_others) > 0:
                winners, scores = of_others[0], of_others[1]
                place = winners[0] + own * winners[1] + n.to(tl.int64)[:, None] * winners[2] + t[None, :]
                won = tl.load(place, mask=seen, other=0).to(tl.int32)
                grads = tl.load(scores[0] + own * scores[1] + n.to(tl.int64) * scores[2], mask=in_y, other=0.0)
                slopes += tl.where(won[None, :, :] == r[:, None, None], grads[None, :, None], 0.0)
            slopes = tl.where(row_seen & seen[None, :, :], slopes, 0.0)
            slopes = tl.reshape(slopes, (ROWS, COLUMNS)).to(y[0].dtype.element_ty)
            # Tokens that are hidden are read as zeros: their NaN times a slope of zero would be NaN.
            t = token + column % TOKENS
            there = visible(y_mask, sample, t, (sample < y_samples) & (t < y_tokens))
            place = y[0] + (sample.to(tl.int64) * y[1] + t.to(tl.int64) * y[2])[:, None] * UNIT + d[None, :]
            values = tl.load(place, mask=there[:, None] & (d < depth)[None, :], other=0.0)
            acc = dot(slopes, values, acc, PRECISION)
    place = ((span * x_samples + own) * x_tokens + r.to(tl.int64))[:, None] * depth + d[None, :]
    tl.store(grad + place, acc.to(grad.dtype.element_ty), mask=in_x[:, None] & (d < depth)[None, :])


@triton.jit
def visible(mask, sample, token, there):
    """Which tokens, of those that are there, no mask hides."""
    if len(mask) > 0:
        there &= tl.load(mask[0] + sample.to(tl.int64) * mask[1] + token, mask=there, other=0) != 0
    return there
