"""What is checked and timed on a GPU: cases of each family, and who takes part."""

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FAMILIES = (
    "attention", "masks", "contrastive", "diffusion", "hamming", "late_interaction", "fusion", "epilogue",
)  # fmt: skip
DRY = bool(os.environ.get("XMKERN_DRY_RUN"))  # on the CPU, at sizes that take no time, with the references as ours
DEVICE = "cpu" if DRY else "cuda"
BACKEND = "reference" if DRY else "triton"
FORWARD, BOTH = "forward", "forward + backward"

Inputs = dict[str, Any]
Calls = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Case:
    """One call of ours, and of those who compute the same.

    inputs(size): fresh arguments by name, "full" to be timed, "odd" to be checked at a size that is no multiple of any
    tile. calls: who computes it from them, "xmkern" first. operations: of the forward pass, on the unit that ``unit``
    names, and ``backward`` times as many in both passes; bytes: the fewest that a pass must move, likewise. compared:
    with the others at full size too.
    """

    name: str
    shape: str
    dtype: torch.dtype
    inputs: Callable[[str], Inputs]
    calls: Calls
    reference: Callable[..., Any]
    operations: float = 0.0
    bytes: float = 0.0
    backward: float = 3.5
    unit: str = "matrix"
    passes: tuple[str, ...] = (FORWARD, BOTH)
    compared: bool = True


def cases(family: str) -> list[Case]:
    """In order of importance."""
    found: Iterator[Case] = importlib.import_module(f"benchmarks.gpu.cases.{family}").cases()
    return list(found)


def normal(*shape: int, dtype: torch.dtype, graded: bool = True) -> Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype).requires_grad_(graded)


def sized(full: tuple[int, ...], size: str, odd: tuple[int, ...]) -> tuple[int, ...]:
    """The shape to make: full, unless a check or a dry run wants the odd one."""
    if DRY:
        return tuple(n if n == most else min(n, 45) for n, most in zip(odd, full, strict=True))
    return full if size == "full" else odd


def compiles(call: Callable[..., Any]) -> Calls:
    """The call as torch.compile makes it, where there is a GPU."""
    return {} if DRY else {"torch.compile": torch.compile(call, dynamic=False)}


def spelled(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
