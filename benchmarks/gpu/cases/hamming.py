"""The nearest of many codes, by popcount, against products of signs on matrix units."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import xmkern.functional as xf
from benchmarks.gpu.cases import BACKEND, DRY, FORWARD, Case, Inputs, sized, spelled
from xmkern.ops.hamming import cuda
from xmkern.ops.hamming.reference import unpack_bits

_CHUNK = 1 << 18  # codes whose distances to all queries are in memory at a time


def eager(queries: Tensor, codes: Tensor, k: int) -> Any:
    """Signs, their products in half precision (exact up to 2048 bits), the best of each chunk and of all."""
    bits = 8 * queries.shape[1]
    signs = unpack_bits(queries, bits).half() * 2 - 1
    found = []
    for first in range(0, len(codes), _CHUNK):
        others = unpack_bits(codes[first : first + _CHUNK], bits).half() * 2 - 1
        best = (signs @ others.T).topk(min(k, len(others)), dim=1)
        found.append((best.values, best.indices + first))
    values, indices = (torch.cat(each, dim=1) for each in zip(*found, strict=True))
    best = values.topk(k, dim=1)
    return ((bits - best.values.int()) // 2).int(), indices.gather(1, best.indices)


def cases() -> Iterator[Case]:
    for queries, count, width, k in (
        (4096, 1 << 24, 8, 10), (4096, 1 << 20, 8, 10), (1, 1 << 24, 8, 10), (256, 1 << 20, 32, 100),
    ):  # fmt: skip
        yield case(queries, count, width, k)


def case(queries: int, count: int, width: int, k: int) -> Case:
    def inputs(size: str) -> Inputs:
        rows = sized((queries, count), size, (37, 3001))
        made = (torch.randint(0, 256, (n, width), dtype=torch.uint8) for n in rows)
        where = "cpu" if DRY else "cuda"
        return {**dict(zip(("queries", "codes"), (x.to(where) for x in made), strict=True)), "k": k}

    def ours(backend: str = BACKEND, **given: Any) -> Any:
        return xf.hamming_topk(**given, backend=backend)

    calls: dict[str, Callable[..., Any]] = {"xmkern": ours}
    sample = inputs("odd")
    if cuda.refuses(sample["queries"], sample["codes"], k) is None:
        calls["xmkern, CUDA"] = lambda **given: ours("cuda", **given)
    if queries > 1:
        calls["eager"] = eager
    return Case(
        f"{k} nearest of {8 * width} bits", spelled((queries, count)), torch.uint8, inputs, calls,
        lambda **given: ours("reference", **given),
        operations=queries * count * width / 4, bytes=float(count * width), unit="popcount", passes=(FORWARD,),
        compared=False,
    )  # fmt: skip
