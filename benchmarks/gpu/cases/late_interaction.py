"""Late interaction: the sum over tokens of their largest similarity, for all pairs of a batch."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

import xmkern.functional as xf
from benchmarks.gpu.cases import BACKEND, BOTH, FORWARD, Case, Inputs, compiles, normal, sized, spelled


def ours(x: Tensor, y: Tensor, backend: str = BACKEND) -> tuple[Tensor, ...]:
    return tuple(xf.max_similarity(x, y, both=True, backend=backend))


def eager(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    similarity = torch.einsum("brd,ntd->bnrt", x, y)
    return similarity.amax(3).mean(2).float(), similarity.amax(2).mean(2).float()


def cases() -> Iterator[Case]:
    for shape in ((64, 49, 49, 256), (256, 49, 32, 256), (128, 197, 77, 256)):
        yield case(shape, torch.bfloat16, compiled=shape[0] == 64)
    yield case((64, 49, 49, 256), torch.float32, compiled=False)


def case(shape: tuple[int, int, int, int], dtype: torch.dtype, compiled: bool) -> Case:
    def inputs(size: str) -> Inputs:
        B, R, T, D = sized(shape, size, (7, shape[1], shape[2] - 3, 72))
        return {k: normalize(normal(B, n, D, dtype=torch.float32), dim=2).to(dtype).detach().requires_grad_()
                for k, n in (("x", R), ("y", T))}  # fmt: skip

    B, R, T, D = shape
    return Case(
        "tokens of two sides", spelled(shape), dtype, inputs,
        {"xmkern": ours, "eager": eager, **(compiles(eager) if compiled else {})},
        lambda **given: ours(**given, backend="reference"),
        operations=2.0 * B * B * R * T * D, bytes=float(B * (R + T) * D * dtype.itemsize), backward=1.0,
        passes=(FORWARD, BOTH), compared=False,
    )  # fmt: skip
