"""What the launchers of each family can ask for: calls of them, on tensors of the CPU, that together choose every
configuration. A test says what is missing: a kernel, a row of a tuning table, a kind of what a family enumerates."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FAMILIES = (
    "attention", "bi_attention", "contrastive", "cross_attention", "diffusion", "epilogue", "hamming",
    "late_interaction",
)  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """name: of the configuration; call: the launchers, forward and backward; usual: one of the few that are compiled in
    every run of the tests."""

    name: str
    call: Callable[[], Any]
    usual: bool = False


def launches(family: str, chip: int) -> list[Launch]:
    """Those that the chip's launchers do not refuse."""
    found: list[Launch] = list(importlib.import_module(f"benchmarks.gpu.launches.{family}").launches(chip))
    return found


def dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
