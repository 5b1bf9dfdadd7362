"""Mask programs in Triton: element by element, as reaches of a tile, and as lists of the tiles worth visiting.

The program is known when a kernel is compiled, ``MASK``: three numbers an instruction, its code and where its numbers
and its tensors begin among the run-time arguments ``numbers`` and ``tensors`` (triton_arguments.py lowers it). A
program in postfix needs a stack; here it is a tuple that exists only while the kernel is compiled.
"""

# ruff: noqa: RET505, RUF005 -- Triton wants what is known when it compiles in both branches, and sums of tuples.
import triton
import triton.language as tl

AND = tl.constexpr(0)
OR = tl.constexpr(1)
BAND = tl.constexpr(2)
KEY_LENGTHS = tl.constexpr(3)
GRID = tl.constexpr(4)
SEGMENTS = tl.constexpr(5)
DENSE = tl.constexpr(6)

_FAR = tl.constexpr(1 << 29)  # no position, and no distance between two, is as large


@triton.jit
def visible(i, j, here, there, batch, head, MASK: tl.constexpr, numbers, tensors):
    """Whether query i sees key j; i and j int32, one of them a row and one a column; ``here``: the query exists;
    ``there``: the key does."""
    stack = ()
    for n in tl.static_range(len(MASK) // 3):
        stack = _visible_by(
            i, j, here, there, batch, head, stack, MASK[3 * n], MASK[3 * n + 1], MASK[3 * n + 2], numbers, tensors
        )
    return stack[-1]  # type: ignore[misc]


@triton.jit
def _visible_by(
    i, j, here, there, batch, head, stack, CODE: tl.constexpr, N: tl.constexpr, T: tl.constexpr, numbers, tensors
):
    if CODE == AND:
        return stack[:-2] + (stack[-2] & stack[-1],)
    elif CODE == OR:
        return stack[:-2] + (stack[-2] | stack[-1],)
    elif CODE == BAND:
        apart = j - i
        return stack + ((apart >= numbers[N]) & (apart <= numbers[N + 1]),)
    elif CODE == KEY_LENGTHS:
        return stack + (j < _length(batch, N, T, numbers, tensors),)
    elif CODE == GRID:
        text, end, width = numbers[N], numbers[N + 1], numbers[N + 2]
        rows = (j - text) // width - (i - text) // width
        columns = (j - text) % width - (i - text) % width
        # Where i or j are no places of the grid, rows and columns mean nothing, and are not asked.
        near = (rows >= numbers[N + 3]) & (rows <= numbers[N + 4])
        near &= (columns >= numbers[N + 5]) & (columns <= numbers[N + 6])
        near &= ((i >= text) & (i < end)) & ((j >= text) & (j < end))
        return stack + (near | (j < text),)
    elif CODE == SEGMENTS:
        own, other = tensors[T] + batch * numbers[N], tensors[T + 1] + batch * numbers[N + 2]
        query_id = tl.load(own + i.to(tl.int64) * numbers[N + 1], mask=here, other=0)
        key_id = tl.load(other + j.to(tl.int64) * numbers[N + 3], mask=there, other=0)
        return stack + (query_id == key_id,)
    else:
        place = batch * numbers[N] + head * numbers[N + 1] + i.to(tl.int64) * numbers[N + 2]
        flags = tensors[T] + place + j.to(tl.int64) * numbers[N + 3]
        return stack + (tl.load(flags, mask=here & there, other=0) != 0,)


@triton.jit
def seen_keys(j, batch, sizes, MASK: tl.constexpr, numbers, tensors):
    """Which keys exist and may be seen by some query. The others are read as zeros: whatever lies in the padding, zero
    times NaN would be NaN. Conservative: what only segments hide from everyone, or a dense matrix from every query of
    one head, counts as seen.
    """
    seen = j < sizes[3]
    if len(MASK) > 0:
        stack = ()
        for n in tl.static_range(len(MASK) // 3):
            stack = _seen_by_some(
                j, seen, batch, sizes, stack, MASK[3 * n], MASK[3 * n + 1], MASK[3 * n + 2], numbers, tensors
            )
        seen &= stack[-1]  # type: ignore[misc]
    return seen


@triton.jit
def _seen_by_some(
    j, inside, batch, sizes, stack, CODE: tl.constexpr, N: tl.constexpr, T: tl.constexpr, numbers, tensors
):
    if CODE == AND:
        return stack[:-2] + (stack[-2] & stack[-1],)
    elif CODE == OR:
        return stack[:-2] + (stack[-2] | stack[-1],)
    elif CODE == BAND:
        return stack + ((j - numbers[N] >= 0) & (j - numbers[N + 1] < sizes[2]),)
    elif CODE == KEY_LENGTHS:
        return stack + (j < _length(batch, N, T, numbers, tensors),)
    elif CODE == GRID:
        return stack + (j < tl.maximum(numbers[N], numbers[N + 1]),)
    elif CODE == SEGMENTS:
        return stack + (j >= 0,)
    else:
        flags = tensors[T + 1] + batch * numbers[N + 4] + j.to(tl.int64) * numbers[N + 7]
        return stack + (tl.load(flags, mask=inside, other=0) != 0,)


@triton.jit
def _length(batch, N: tl.constexpr, T: tl.constexpr, numbers, tensors):
    """A length of KEY_LENGTHS as int32, as long as it makes no difference."""
    length = tl.load(tensors[T] + batch * numbers[N])
    return tl.minimum(tl.maximum(length, 0), _FAR).to(tl.int32)


@triton.jit
def reach(begin, end, size, batch, MASK: tl.constexpr, numbers, tensors, OF_KEYS: tl.constexpr):
    """What the queries begin to end see at most, and what all of them see: keys [first, last) and [all_first,
    all_last), of ``size`` keys. With OF_KEYS, the queries that see the keys begin to end. Conservative: the first
    interval may be too long and the second too short.
    """
    first, last, all_first, all_last = begin * 0, size, begin * 0, size
    if len(MASK) > 0:
        stack = ()
        for n in tl.static_range(len(MASK) // 3):
            stack = _reach_by(
                begin, end, batch, stack, MASK[3 * n], MASK[3 * n + 1], MASK[3 * n + 2], numbers, tensors, OF_KEYS
            )
        first, last = tl.maximum(stack[0], 0), tl.minimum(stack[1], size)  # type: ignore[misc]
        all_first, all_last = tl.maximum(stack[2], first), tl.minimum(stack[3], last)  # type: ignore[misc]
    return first, last, all_first, all_last


@triton.jit
def _reach_by(
    begin,
    end,
    batch,
    stack,
    CODE: tl.constexpr,
    N: tl.constexpr,
    T: tl.constexpr,
    numbers,
    tensors,
    OF_KEYS: tl.constexpr,
):
    none, everything = begin * 0, begin * 0 + _FAR
    if CODE == AND:
        a, b, c, d = stack[-8], stack[-7], stack[-6], stack[-5]
        e, f, g, h = stack[-4], stack[-3], stack[-2], stack[-1]
        return stack[:-8] + (tl.maximum(a, e), tl.minimum(b, f), tl.maximum(c, g), tl.minimum(d, h))
    elif CODE == OR:
        a, b, c, d = stack[-8], stack[-7], stack[-6], stack[-5]
        e, f, g, h = stack[-4], stack[-3], stack[-2], stack[-1]
        # An empty interval must not stretch the other.
        first = tl.where(a >= b, e, tl.where(e >= f, a, tl.minimum(a, e)))
        last = tl.where(a >= b, f, tl.where(e >= f, b, tl.maximum(b, f)))
        # Two full intervals are one where they touch; else the longer one counts.
        touch = tl.maximum(c, g) <= tl.minimum(d, h)
        longer = d - c >= h - g
        all_first = tl.where(touch, tl.minimum(c, g), tl.where(longer, c, g))
        all_last = tl.where(touch, tl.maximum(d, h), tl.where(longer, d, h))
        return stack[:-8] + (first, last, all_first, all_last)
    elif CODE == BAND:
        low, high = numbers[N], numbers[N + 1]
        if OF_KEYS:
            return stack + (begin - high, end - low, end - 1 - high, begin - low + 1)
        else:
            return stack + (begin + low, end + high, end - 1 + low, begin + high + 1)
    elif CODE == KEY_LENGTHS:
        length = _length(batch, N, T, numbers, tensors)
        if OF_KEYS:
            return stack + (
                none, tl.where(begin < length, everything, none), none, tl.where(end <= length, everything, none)
            )  # fmt: skip
        else:
            return stack + (none, length, none, length)
    elif CODE == GRID:  # the text; what is seen of the image is left to the lists
        if OF_KEYS:
            return stack + (none, everything, none, tl.where(end <= numbers[N], everything, none))
        else:
            return stack + (none, everything, none, none + numbers[N])
    else:
        return stack + (none, everything, none, none)


@triton.jit(do_not_specialize=["sizes", "numbers"])
def tile_list_kernel(
    lists, counts, sizes, numbers, tensors,
    MASK: tl.constexpr, QUERY_TILE: tl.constexpr, KEY_TILE: tl.constexpr, OF_KEYS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The tiles of keys that a tile of queries has to visit (OF_KEYS: of queries, for a tile of keys), in order.

    lists int32 [batches, tiles, 2, moving]: first the tiles that the mask does not thin out, then those that it does;
    counts int32 [batches, tiles, 2] says how many there are. One program a tile.
    """
    queries, keys = sizes[2], sizes[3]
    query_tiles, key_tiles = tl.cdiv(queries, QUERY_TILE), tl.cdiv(keys, KEY_TILE)
    if OF_KEYS:
        tiles, moving = key_tiles, query_tiles
    else:
        tiles, moving = query_tiles, key_tiles
    program = tl.program_id(0).to(tl.int64)
    batch, tile = program // tiles, (program % tiles).to(tl.int32)
    whole_list = lists + program * 2 * moving
    whole, partial = tile * 0, tile * 0
    for start in range(0, moving, CHUNK):
        other = start + tl.arange(0, CHUNK)
        if OF_KEYS:
            i0, j0 = other * QUERY_TILE, tile * KEY_TILE
        else:
            i0, j0 = tile * QUERY_TILE, other * KEY_TILE
        i1, j1 = tl.minimum(i0 + QUERY_TILE, queries), tl.minimum(j0 + KEY_TILE, keys)
        stack = ()
        for n in tl.static_range(len(MASK) // 3):
            stack = _state_by(
                i0, i1, j0, j1, batch, stack, MASK[3 * n], MASK[3 * n + 1], MASK[3 * n + 2], numbers, tensors,
                QUERY_TILE, KEY_TILE, OF_KEYS,
            )  # fmt: skip
        some, all_of_it = stack[-2] & (other < moving), stack[-1] & (other < moving)  # type: ignore[misc]
        if OF_KEYS:  # a tile that the last row cuts has to be read with care
            all_of_it &= i0 + QUERY_TILE <= queries
        else:
            all_of_it &= j0 + KEY_TILE <= keys
        thinned = (some & ~all_of_it).to(tl.int32)
        kept_whole = (some & all_of_it).to(tl.int32)
        tl.store(whole_list + whole + tl.cumsum(kept_whole, 0) - 1, other, mask=kept_whole > 0)
        tl.store(whole_list + moving + partial + tl.cumsum(thinned, 0) - 1, other, mask=thinned > 0)
        whole += tl.sum(kept_whole, 0)
        partial += tl.sum(thinned, 0)
    tl.store(counts + program * 2, whole)
    tl.store(counts + program * 2 + 1, partial)


@triton.jit
def _state_by(
    i0, i1, j0, j1, batch, stack, CODE: tl.constexpr, N: tl.constexpr, T: tl.constexpr, numbers, tensors,
    QUERY_TILE: tl.constexpr, KEY_TILE: tl.constexpr, OF_KEYS: tl.constexpr,
):  # fmt: skip
    """Pushes two flags: something of the tile may be visible; all of it is."""
    if CODE == AND:
        return stack[:-4] + (stack[-4] & stack[-2], stack[-3] & stack[-1])
    elif CODE == OR:
        return stack[:-4] + (stack[-4] | stack[-2], stack[-3] | stack[-1])
    elif CODE == BAND:
        least, most = j0 - (i1 - 1), j1 - 1 - i0
        low, high = numbers[N], numbers[N + 1]
        return stack + ((most >= low) & (least <= high), (least >= low) & (most <= high))
    elif CODE == KEY_LENGTHS:
        length = _length(batch, N, T, numbers, tensors)
        # ``i0 == i0`` gives it the shape of a list of tiles, whichever of the two is one.
        return stack + ((j0 < length) & (i0 == i0), (j1 <= length) & (i0 == i0))
    elif CODE == GRID:
        text, end, width = numbers[N], numbers[N + 1], numbers[N + 2]
        i_first, i_last = tl.maximum(i0, text) - text, tl.minimum(i1, end) - 1 - text
        j_first, j_last = tl.maximum(j0, text) - text, tl.minimum(j1, end) - 1 - text
        within = (i_first <= i_last) & (j_first <= j_last)
        least, most = j_first // width - i_last // width, j_last // width - i_first // width
        some = within & (most >= numbers[N + 3]) & (least <= numbers[N + 4])
        every = within & (i0 >= text) & (i1 <= end) & (j1 <= end)
        every &= (least >= numbers[N + 3]) & (most <= numbers[N + 4])
        # The columns of a tile that lies in one row are an interval; another tile may have any.
        i_row, j_row = i_first // width == i_last // width, j_first // width == j_last // width
        i_left, i_right = tl.where(i_row, i_first % width, 0), tl.where(i_row, i_last % width, width - 1)
        j_left, j_right = tl.where(j_row, j_first % width, 0), tl.where(j_row, j_last % width, width - 1)
        least, most = j_left - i_right, j_right - i_left
        some &= (most >= numbers[N + 5]) & (least <= numbers[N + 6])
        every &= (least >= numbers[N + 5]) & (most <= numbers[N + 6])
        return stack + (some | (j0 < text), every | (j1 <= text))
    elif CODE == SEGMENTS:
        own, other = tensors[T] + batch * numbers[N], tensors[T + 1] + batch * numbers[N + 2]
        i_low, i_high = _range_of_ids(own, i0, i1, numbers[N + 1], QUERY_TILE, OF_KEYS)
        j_low, j_high = _range_of_ids(other, j0, j1, numbers[N + 3], KEY_TILE, not OF_KEYS)
        some = (i_high >= j_low) & (j_high >= i_low)
        return stack + (some, (i_low == j_high) & (j_low == i_high))
    else:
        return stack + ((j0 >= 0) & (i0 >= 0), (j0 < 0) & (i0 < 0))


@triton.jit
def _range_of_ids(ids, begin, end, stride, TILE: tl.constexpr, MANY: tl.constexpr):
    """The least and the greatest id of a tile, or (MANY) of each of a list of tiles."""
    if MANY:
        begin, end = begin[:, None], end[:, None]
        place = begin + tl.arange(0, TILE)[None, :]
    else:
        place = begin + tl.arange(0, TILE)
    here = place < end
    found = tl.load(ids + place.to(tl.int64) * stride, mask=here, other=0)
    axis: tl.constexpr = 1 if MANY else 0
    low = tl.min(tl.where(here, found, 0x7FFFFFFFFFFFFFFF), axis)
    high = tl.max(tl.where(here, found, -0x7FFFFFFFFFFFFFFF - 1), axis)
    return low, high
