"""What the Triton kernels of similarity reductions share: logits, and which pairs are of what sort.

A vector is a tuple (data,), or (data, 0) if all its elements are the one that is there. ``scales`` is (x_scale,
y_scale, bias), the last of them only data; ``sorts`` is (ids, groups, relevance), each () or: of ids and of groups the
vectors of the rows and of the columns, of relevance (data, strides).
"""

# ruff: noqa: RET505 -- Triton wants what is known when it compiles in both branches.
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def exp(x):
    return tl.exp2(x * LOG2E)


@triton.jit
def rows_of(x, index, count, UNIT: tl.constexpr):
    """Where rows begin, the last one's beginning for those past it. x: (data, stride in units of UNIT numbers)."""
    return x[0] + tl.minimum(index, count - 1).to(tl.int64) * x[1] * UNIT


@triton.jit
def element(vector, index, here, other):
    if len(vector) == 1:
        return tl.load(vector[0] + index, mask=here, other=other)
    else:
        return tl.where(here, tl.load(vector[0]), other)


@triton.jit
def names_of(scales, sorts, index, here, WHICH: tl.constexpr):
    """(scale, ids, groups) of rows (WHICH 0) or of columns (1); of what is not given, something."""
    scale = element(scales[WHICH], index, here, 0.0)
    ids, groups = index, index
    if len(sorts[0]) > 0:
        ids = element(sorts[0][WHICH], index, here, 0)
    if len(sorts[1]) > 0:
        groups = element(sorts[1][WHICH], index, here, 0)
    return scale, ids, groups


@triton.jit
def logits_of(products, of_rows, scales, sorts, i, j, here, there):
    """-> logits, and which pairs are positive, and hidden, as those are that do not exist. of_rows: by ``names_of``."""
    of_columns = names_of(scales, sorts, j, there, 1)
    # The scales' product first: so a logit has the same bits in a matrix and in the one on its side.
    z = products * (of_rows[0][:, None] * of_columns[0][None, :]) + tl.load(scales[2])
    exists = here[:, None] & there[None, :]
    if len(sorts[2]) > 0:
        relevance = sorts[2]
        place = relevance[0] + i.to(tl.int64)[:, None] * relevance[1] + j.to(tl.int64)[None, :] * relevance[2]
        positive = tl.load(place, mask=exists, other=0) != 0
    elif len(sorts[0]) > 0:
        positive = (of_rows[1][:, None] == of_columns[1][None, :]) & exists
    else:
        positive = exists & False
    hidden = ~exists
    if len(sorts[1]) > 0:
        hidden |= (of_rows[2][:, None] == of_columns[2][None, :]) & ~positive
    return z, positive, hidden
