"""The Triton kernels of diffusion. Importing this module imports Triton.

A program has BLOCK elements of one sample. Where noise is drawn, they are taken in four parts, the numbers that come of
one word of Philox each: 16 neighbours, and 48 places on the next 16. Kernels are launched without fusing products and
sums, so that the noise has the same bits as anywhere (normals.py).
"""

import triton
import triton.language as tl

GIVEN = tl.constexpr(1)
DRAWN = tl.constexpr(2)
LEARNED = tl.constexpr(1)
LEARNED_RANGE = tl.constexpr(2)
DIGITS = tl.constexpr(256)


@triton.jit
def _box_muller(a, b):
    """uint32 words -> two normal numbers"""
    bits = ((a & 0x7FFFFFFF).to(tl.int32, bitcast=True).to(tl.float32) + 0.5).to(tl.int32, bitcast=True) - (31 << 23)
    exponent = (bits - 0x3F3504F3) >> 23
    x = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    log = x * 0.2021378129720688 + -0.3244515657424927
    log = log * x + 0.34501659870147705
    log = log * x + -0.39800330996513367
    log = log * x + 0.4993981719017029
    log = log * x + -0.6667011976242065
    log = log * x + 1.0000072717666626
    log = log * x + -1.9999998807907104
    radius = tl.sqrt_rn(x * log + exponent.to(tl.float32) * -1.3862943649291992)
    x = ((b >> 9) | 0x3F800000).to(tl.float32, bitcast=True) - 1.5
    square = x * x
    sine = square * -0.00460165785625577 + 0.07968003302812576
    sine = sine * square + -0.6459634900093079
    sine = (sine * square + 1.5707963705062866) * x
    cosine = square * -0.02039858140051365 + 0.25359493494033813
    cosine = cosine * square + -1.233696699142456
    cosine = cosine * square + 0.9999999403953552
    cosine = tl.where((a >> 31) == 1, -cosine, cosine)
    swap = (b & 2) == 2
    return radius * tl.where(swap, sine, cosine), radius * tl.where(swap, cosine, sine)


@triton.jit
def _draw(block, first, seed, BLOCK: tl.constexpr):
    """The numbers of a block of the sequence that begins with number ``first`` -> their places in it int32 [BLOCK / 4],
    those of the first word, and the four words' numbers."""
    part = block * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    tile = first // 64 + part // 16
    low, high = (tile & 0xFFFFFFFF).to(tl.uint32), ((tile >> 32) & 0xFFFFFFFF).to(tl.uint32)
    a, b, c, d = tl.philox(seed, low, high, tl.zeros_like(low), (part % 16).to(tl.uint32))
    z0, z1 = _box_muller(a, b)
    z2, z3 = _box_muller(c, d)
    return (part // 16) * 64 + part % 16, (z0, z1, z2, z3)


@triton.jit
def normal_kernel(out, seed, offset, count, BLOCK: tl.constexpr):
    seed, offset, count = tl.cast(seed, tl.int64), tl.cast(offset, tl.int64), tl.cast(count, tl.int64)
    place, numbers = _draw(tl.program_id(0).to(tl.int64), offset, seed, BLOCK)
    for w in tl.static_range(4):
        i = place + (16 * w - offset % 64)
        tl.store(out + i, numbers[w].to(out.dtype.element_ty), mask=(i >= 0) & (i < count))


@triton.jit
def _weighted(weight, x):
    """What has no weight is left out: its infinities have none either."""
    return tl.where(weight == 0, 0.0, weight * x)


@triton.jit
def _load(operand, b, i, valid):
    """Elements i of sample b of (pointer, stride of a sample), in float32."""
    return tl.load(operand[0] + b * operand[1] + i, mask=valid, other=0).to(tl.float32)


@triton.jit
def _predicted(output, b, i, valid, batch, guidance, factor, GUIDED: tl.constexpr):
    m = _load(output, b, i, valid)
    if GUIDED:
        m = (m + guidance * (_load(output, b + batch, i, valid) - m)) * factor
    return m


@triton.jit
def _step(
    sample, output, known, mask, history, previous, original, numbers, b, i, valid, z, elements, batch, row,
    factor, clip, WEIGHTS: tl.constexpr, NOISE: tl.constexpr, VARIANCE: tl.constexpr, GUIDED: tl.constexpr,
    MASKED: tl.constexpr, DYNAMIC: tl.constexpr,
):  # fmt: skip
    """numbers: as reference.Numbers, but the two of the variance's range: log2 of the deviation = low + slope v."""
    x = _load(sample, b, i, valid)
    m = _predicted(output, b, i, valid, batch, tl.cast(numbers[14], tl.float32), factor, GUIDED)
    if NOISE != 0:
        x += _weighted(tl.cast(numbers[6], tl.float32), z)
    x0 = _weighted(tl.cast(numbers[0], tl.float32), x) + _weighted(tl.cast(numbers[1], tl.float32), m)
    x0 = tl.where(x0 > clip, clip, tl.where(x0 < -clip, -clip, x0))  # NaN is neither
    if DYNAMIC:
        x0 = tl.div_rn(x0, tl.zeros_like(x0) + clip)
    place = b * elements + i
    if original is not None:
        tl.store(original + place, x0.to(original.dtype.element_ty), mask=valid)
    if previous is not None:
        y = _weighted(tl.cast(numbers[2], tl.float32), x) + _weighted(tl.cast(numbers[3], tl.float32), x0)
        y += _weighted(tl.cast(numbers[4], tl.float32), m)
        for k in tl.static_range(WEIGHTS):
            y += tl.cast(numbers[7 + k], tl.float32) * _load(history[k], b, i, valid)
        if NOISE != 0:
            w = tl.cast(numbers[5], tl.float32) * z
            if VARIANCE != 0:
                at = b + batch if GUIDED else b
                v = _load(output, at, i + elements, valid)
                if VARIANCE == LEARNED:
                    w *= tl.sqrt_rn(v)
                else:
                    w *= tl.exp2(tl.cast(numbers[12], tl.float32) + tl.cast(numbers[13], tl.float32) * v)
            y += tl.where(tl.cast(numbers[5], tl.float32) == 0, 0.0, w)
        if MASKED:
            share = _load(mask, b, i % row, valid)
            kept = tl.cast(numbers[10], tl.float32) * _load(known, b, i, valid)
            if NOISE != 0:
                kept += tl.cast(numbers[11], tl.float32) * z
            y = share * kept + (1 - share) * y
        tl.store(previous + place, y.to(previous.dtype.element_ty), mask=valid)


@triton.jit
def step_kernel(
    sample, output, noise, known, mask, history, statistics, previous, original, numbers, seed, offset,
    elements, batch, row, blocks,
    WEIGHTS: tl.constexpr, NOISE: tl.constexpr, VARIANCE: tl.constexpr, GUIDED: tl.constexpr, MASKED: tl.constexpr,
    DYNAMIC: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """statistics float32 [batch, 2]: what guided predictions are multiplied with, and the clip; or None."""
    elements, batch = tl.cast(elements, tl.int64), tl.cast(batch, tl.int64)
    program = tl.program_id(0).to(tl.int64)
    b, block = program // blocks, program % blocks
    factor, clip = tl.cast(1.0, tl.float32), tl.cast(numbers[16], tl.float32)
    if statistics is not None:
        factor, clip = tl.load(statistics + 2 * b), tl.load(statistics + 2 * b + 1)
    if NOISE == DRAWN:
        first = tl.cast(offset, tl.int64) + b * elements
        place, drawn = _draw(block, first, tl.cast(seed, tl.int64), BLOCK)
        shift = first % 64
        if ALIGNED:
            shift = tl.multiple_of(shift, 16)
        for w in tl.static_range(4):
            i = place + (16 * w - shift)
            _step(
                sample, output, known, mask, history, previous, original, numbers, b, i, (i >= 0) & (i < elements),
                drawn[w], elements, batch, row, factor, clip, WEIGHTS, NOISE, VARIANCE, GUIDED, MASKED, DYNAMIC,
            )  # fmt: skip
    else:
        i = block * BLOCK + tl.arange(0, BLOCK)
        valid = i < elements
        z = tl.zeros((BLOCK,), tl.float32)
        if NOISE == GIVEN:
            z = _load(noise, b, i, valid)
        _step(
            sample, output, known, mask, history, previous, original, numbers, b, i, valid, z, elements, batch, row,
            factor, clip, WEIGHTS, NOISE, VARIANCE, GUIDED, MASKED, DYNAMIC,
        )  # fmt: skip


@triton.jit
def q_sample_kernel(
    x0, noise, times, table, noisy, velocity, drawn_noise, seed, offset, elements, steps, blocks,
    NOISE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    elements = tl.cast(elements, tl.int64)
    program = tl.program_id(0).to(tl.int64)
    b, block = program // blocks, program % blocks
    t = tl.load(times + b).to(tl.int64)
    there = (t >= 0) & (t < steps)
    level = tl.load(table + t, mask=there, other=float("nan")).to(tl.float64)
    alpha, sigma = tl.sqrt(level).to(tl.float32), tl.sqrt(1 - level).to(tl.float32)
    if NOISE == DRAWN:
        first = tl.cast(offset, tl.int64) + b * elements
        place, drawn = _draw(block, first, tl.cast(seed, tl.int64), BLOCK)
        shift = first % 64
        if ALIGNED:
            shift = tl.multiple_of(shift, 16)
        for w in tl.static_range(4):
            i = place + (16 * w - shift)
            _noised(x0, noisy, velocity, drawn_noise, b, i, (i >= 0) & (i < elements), drawn[w], elements, alpha, sigma)
    else:
        i = block * BLOCK + tl.arange(0, BLOCK)
        valid = i < elements
        z = _load((noise, elements), b, i, valid)
        _noised(x0, noisy, velocity, drawn_noise, b, i, valid, z, elements, alpha, sigma)


@triton.jit
def _noised(x0, noisy, velocity, drawn_noise, b, i, valid, z, elements, alpha, sigma):
    place = b * elements + i
    x = tl.load(x0 + place, mask=valid, other=0).to(tl.float32)
    tl.store(noisy + place, (alpha * x + sigma * z).to(noisy.dtype.element_ty), mask=valid)
    if velocity is not None:
        tl.store(velocity + place, (alpha * z - sigma * x).to(velocity.dtype.element_ty), mask=valid)
    if drawn_noise is not None:
        tl.store(drawn_noise + place, z.to(drawn_noise.dtype.element_ty), mask=valid)


@triton.jit
def _guided_factor(output, b, batch, elements, guidance, rescale, BLOCK: tl.constexpr):
    """rescale std(c) / std(m) + 1 - rescale, by two walks"""
    total, total_c = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, elements, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        total += _predicted(output, b, i, i < elements, batch, guidance, 1.0, True)
        total_c += _load(output, b + batch, i, i < elements)
    mean, mean_c = tl.sum(total, 0) / elements, tl.sum(total_c, 0) / elements
    squares, squares_c = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, elements, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        apart = _predicted(output, b, i, i < elements, batch, guidance, 1.0, True) - mean
        apart_c = _load(output, b + batch, i, i < elements) - mean_c
        squares += tl.where(i < elements, apart * apart, 0)
        squares_c += tl.where(i < elements, apart_c * apart_c, 0)
    ratio = tl.sum(squares_c, 0) / tl.sum(squares, 0)
    ratio = tl.where(elements > 1, ratio, float("nan"))
    return rescale * tl.sqrt(ratio) + (1 - rescale)


@triton.jit
def _key(sample, output, noise, numbers, b, i, valid, batch, factor, NOISE: tl.constexpr, GUIDED: tl.constexpr):
    """The bits of |x0|, of which the order is that of the numbers."""
    x = _load(sample, b, i, valid)
    if NOISE == GIVEN:
        x += _weighted(tl.cast(numbers[6], tl.float32), _load(noise, b, i, valid))
    m = _predicted(output, b, i, valid, batch, tl.cast(numbers[14], tl.float32), factor, GUIDED)
    x0 = _weighted(tl.cast(numbers[0], tl.float32), x) + _weighted(tl.cast(numbers[1], tl.float32), m)
    return x0.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def statistics_kernel(
    sample, output, noise, statistics, numbers, elements, batch, whole, share,
    NOISE: tl.constexpr, GUIDED: tl.constexpr, RESCALED: tl.constexpr, DYNAMIC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program a sample. The quantile lies between the keys of rank ``whole`` and the next, ``share`` of the way:
    found by counting their digits, the highest first."""
    elements, batch, whole = tl.cast(elements, tl.int32), tl.cast(batch, tl.int64), tl.cast(whole, tl.int32)
    b = tl.program_id(0).to(tl.int64)
    factor, clip = tl.cast(1.0, tl.float32), tl.cast(numbers[16], tl.float32)
    if RESCALED:
        guidance, rescale = tl.cast(numbers[14], tl.float32), tl.cast(numbers[15], tl.float32)
        factor = _guided_factor(output, b, batch, elements, guidance, rescale, BLOCK)
    if DYNAMIC:
        digit = tl.arange(0, DIGITS)
        prefix, rank, same = tl.cast(0, tl.int32), whole, elements
        for level in tl.static_range(4):
            counts = tl.zeros((DIGITS,), tl.int32)
            for begin in range(0, elements, BLOCK):
                i = begin + tl.arange(0, BLOCK)
                key = _key(sample, output, noise, numbers, b, i, i < elements, batch, factor, NOISE, GUIDED)
                left = i < elements
                if level > 0:
                    left &= (key >> (32 - 8 * level)) == prefix
                counts += tl.histogram((key >> (24 - 8 * level)) & 255, DIGITS, mask=left)
            below = tl.cumsum(counts, 0) <= rank
            bucket = tl.sum(below.to(tl.int32), 0)
            rank -= tl.sum(tl.where(below, counts, 0), 0)
            same = tl.sum(tl.where(digit == bucket, counts, 0), 0)
            prefix = prefix * 256 + bucket
        above = tl.full((BLOCK,), 0x7FFFFFFF, tl.int32)
        most = tl.zeros((BLOCK,), tl.int32)
        for begin in range(0, elements, BLOCK):
            i = begin + tl.arange(0, BLOCK)
            key = _key(sample, output, noise, numbers, b, i, i < elements, batch, factor, NOISE, GUIDED)
            above = tl.where((i < elements) & (key > prefix), tl.minimum(above, key), above)
            most = tl.where(i < elements, tl.maximum(most, key), most)
        following = tl.where(rank + 1 < same, prefix, tl.min(above, 0))
        following = tl.where(whole + 1 < elements, following, prefix)
        low, high = prefix.to(tl.float32, bitcast=True), following.to(tl.float32, bitcast=True)
        share = tl.cast(share, tl.float32)
        quantile = tl.where(share < 0.5, low + share * (high - low), high - (high - low) * (1 - share))
        quantile = tl.where(quantile < 1, 1.0, tl.where(quantile > clip, clip, quantile))
        clip = tl.where(tl.max(most, 0) > 0x7F800000, float("nan"), quantile)
    tl.store(statistics + 2 * b, factor)
    tl.store(statistics + 2 * b + 1, clip)
