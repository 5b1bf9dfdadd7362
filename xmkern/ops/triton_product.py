"""Matrix products in Triton kernels, as several families use them. Importing this module imports Triton."""

# ruff: noqa: RET505 -- Triton wants what is known when it compiles in both branches.
import triton
import triton.language as tl


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b, in float32; acc may be None. "wide" is for the interpreter, whose numpy cannot multiply bfloat16."""
    if PRECISION == "wide":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    else:
        return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def product(x_rows, y_rows, size, EVEN: tl.constexpr, UNIT: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr):
    """<x, y> -> float32 [rows, columns], over the inner axis in chunks.

    x_rows, y_rows: where rows begin. All of them must exist: where a tile reaches past the end, the last one may be
    repeated, which spares the loads a mask. size: of the inner axis, in units of UNIT numbers, so that the compiler
    sees it divide by that, and reads in vectors; EVEN: it is a multiple of CHUNK numbers.
    """
    ROWS: tl.constexpr = x_rows.shape[0]
    COLUMNS: tl.constexpr = y_rows.shape[0]
    size = size * UNIT
    depth = tl.arange(0, CHUNK)[None, :]
    x_place, y_place = x_rows[:, None] + depth, y_rows[:, None] + depth
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in tl.range(0, size, CHUNK):
        if EVEN:
            a, b = tl.load(x_place + first), tl.load(y_place + first)
        else:
            inside = depth < size - first
            a, b = tl.load(x_place + first, mask=inside, other=0.0), tl.load(y_place + first, mask=inside, other=0.0)
        acc = dot(a, tl.trans(b), acc, PRECISION)
    return acc


@triton.jit
def pieces(tile, COUNT: tl.constexpr):
    """A tile [rows, columns] cut by columns into 1, 2, 4 or 8, which share its registers.

    What follows a product is done piece by piece where it would not fit in registers at once.
    """
    if COUNT == 1:
        return (tile,)
    else:
        ROWS: tl.constexpr = tile.shape[0]
        HALF: tl.constexpr = tile.shape[1] // 2
        left, right = tl.split(tl.permute(tl.reshape(tile, (ROWS, 2, HALF)), (0, 2, 1)))
        return pieces(left, COUNT // 2) + pieces(right, COUNT // 2)
