"""Contrastive losses of a batch, forward and backward."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

import xmkern.functional as xf
from benchmarks.gpu.cases import BACKEND, BOTH, Case, Inputs, compiles, normal, sized, spelled

D = 512


def info_nce(x: Tensor, y: Tensor, scale: Tensor, backend: str = BACKEND) -> Tensor:
    return xf.info_nce(x, y, scale, backend=backend)


def sigmoid(x: Tensor, y: Tensor, scale: Tensor, backend: str = BACKEND) -> Tensor:
    return xf.sigmoid_contrastive(x, y, scale, -10.0, backend=backend)


def eager_info_nce(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    logits = scale.to(x.dtype) * x @ y.T
    labels = torch.arange(len(x), device=x.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def eager_sigmoid(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    logits = scale.to(x.dtype) * x @ y.T - 10.0
    signs = 2 * torch.eye(len(x), dtype=x.dtype, device=x.device) - 1
    return -F.logsigmoid(signs * logits).sum() / len(x)


def cases() -> Iterator[Case]:
    for B in (16384, 4096, 1024):
        yield case("InfoNCE", B, torch.bfloat16, info_nce, eager_info_nce, compiled=B == 16384)
    yield case("SigLIP", 16384, torch.bfloat16, sigmoid, eager_sigmoid)
    yield case("InfoNCE", 4096, torch.float32, info_nce, eager_info_nce)
    yield case("InfoNCE", 262144, torch.bfloat16, info_nce, None)


def case(
    name: str,
    B: int,
    dtype: torch.dtype,
    ours: Callable[..., Tensor],
    eager: Callable[..., Tensor] | None,
    compiled: bool = False,
) -> Case:
    def inputs(size: str) -> Inputs:
        (rows,) = sized((B,), size, (333,))
        x, y = (F.normalize(normal(rows, D, dtype=torch.float32, graded=False), dim=1) for _ in range(2))
        scale = torch.tensor(20.0, device=x.device, requires_grad=True)
        return {"x": x.to(dtype).requires_grad_(), "y": y.to(dtype).requires_grad_(), "scale": scale}

    others = {} if eager is None else {"eager": eager, **(compiles(eager) if compiled else {})}
    return Case(
        name, spelled((B, D)), dtype, inputs, {"xmkern": ours, **others},
        lambda **given: ours(**given, backend="reference"),
        operations=2.0 * B * B * D, bytes=2.0 * B * D * dtype.itemsize, backward=3.0, passes=(BOTH,),
        compared=eager is not None,
    )  # fmt: skip
