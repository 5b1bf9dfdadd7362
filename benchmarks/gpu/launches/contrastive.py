"""Contrastive losses: kinds of reductions, kinds of pairs, shapes."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.launches import Launch, dtype_name
from xmkern.ops.contrastive import Pairs
from xmkern.ops.contrastive import triton as launcher
from xmkern.ops.contrastive.reference import KINDS

SORTS = ("ids", "groups", "relevance")
SHAPES = ((1024, 2048, 72), (1024, 2048, 101), (512, 512, 512), (40, 30, 64), (5, 3000, 20))


def launches(chip: int) -> Iterator[Launch]:
    for dtype in (torch.bfloat16, torch.float32):
        for kind in KINDS:
            for sorts in SORTS:
                name = f"{kind} of pairs by {sorts}, {dtype_name(dtype)}"
                usual = (kind, sorts, dtype) == ("logsumexp", "ids", torch.bfloat16)
                yield Launch(name, partial(run, dtype=dtype, kind=kind, sorts=sorts), usual)
        for shape in SHAPES:
            name = f"{' x '.join(map(str, shape))}, {dtype_name(dtype)}"
            yield Launch(name, partial(run, *shape, dtype=dtype), usual=shape[2] == 72 and dtype == torch.bfloat16)


def run(
    B: int = 1024,
    N: int = 2048,
    D: int = 512,
    dtype: torch.dtype = torch.bfloat16,
    kind: str = "logsumexp",
    sorts: str = "ids",
) -> None:
    x, y = torch.zeros(B, D, dtype=dtype), torch.zeros(N, D, dtype=dtype)
    row, column = torch.zeros(B), torch.zeros(N)
    names = (row.long(), column.long())
    pairs = Pairs(
        *(names if sorts != "relevance" else (None, None)),
        *(names if sorts == "groups" else (None, None)),
        torch.zeros(B, N, dtype=torch.bool) if sorts == "relevance" else None,
        *((row, column) if kind in ("hinge", "margin") else (None, None)),
    )
    operands = (x, y, row, column, torch.tensor(0.0), *pairs)
    launcher.similarity_reduce(*operands, kind, True)
    if kind != "maximum":
        results = (row, row, column, column)
        # Without the gradients of x and y: their products are torch's, and take a second where it has none in bfloat16.
        launcher.similarity_reduce_backward(*results, *operands, *results, kind, True, False, False)
