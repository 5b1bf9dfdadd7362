"""The operator of optimal transport: schema, fake, backends. A plan has no gradient."""

from typing import Any

import torch
from torch import Tensor

from xmkern.ops.registry import Backend, Op
from xmkern.ops.transport import cpu, reference


def _sample() -> tuple[Any, ...]:
    return torch.rand(3, 5, 20), torch.rand(3, 5) < 0.7, torch.rand(3, 20) < 0.7, 0.5, 10, 1


def _fake(cost: Tensor, *rest: Any) -> Tensor:
    return cost.new_empty(cost.shape)


transport_plan = Op(
    "transport_plan(Tensor cost, Tensor row_mask, Tensor column_mask, float beta, int iterations, int inner) -> Tensor",
    backends=[
        Backend("cpu", cpu.transport_plan, cpu.refuses),
        Backend("reference", reference.transport_plan),
    ],
    fake=_fake,
    sample=_sample,
)
