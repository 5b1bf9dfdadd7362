"""What the chip can do at best, measured: bytes copied, operations of matrix products, popcounts, all in a second."""

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.gpu.cases import DEVICE, DRY
from benchmarks.gpu.clock import Clock
from xmkern.ops import gpu

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def measured(clock: Clock) -> dict[str, float]:
    """By name: "copy", and "matrix, <dtype>" and "popcount"."""
    found = {"copy": copy_rate(clock)} | {f"matrix, {name}": matrix_rate(clock, d) for name, d in DTYPES.items()}
    if not DRY:
        found["popcount"] = popcount_rate(clock)
    return found


def copy_rate(clock: Clock) -> float:
    """Bytes read and written."""
    size = 1 << 20 if DRY else 1 << 31
    sets = [torch.randint(0, 256, (size,), dtype=torch.uint8, device=DEVICE) for _ in range(2)]
    out = torch.empty_like(sets[0])
    return 2 * size / clock.median(out.copy_, sets)


def matrix_rate(clock: Clock, dtype: torch.dtype) -> float:
    """Of random numbers: a product of zeros draws less power and may run faster."""
    size = 64 if DRY else 8192
    sets = [tuple(torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2)) for _ in range(2)]
    return 2 * size**3 / clock.median(lambda pair: pair[0] @ pair[1], sets)


def popcount_rate(clock: Clock, blocks: int = 4096, rounds: int = 512) -> float:
    """Of 32-bit words, by a loop in registers."""
    from benchmarks.gpu.popcount import LANES, WORDS, popcount_kernel

    out = torch.empty(blocks * LANES, dtype=torch.int32, device="cuda")
    seconds = clock.median(lambda seed: gpu.launch(popcount_kernel, blocks, out, seed, rounds, num_warps=4), [1, 2, 3])
    return blocks * LANES * rounds * WORDS / seconds


def floor_of(case: Any, both: bool, floors: Mapping[str, float]) -> tuple[float, str]:
    """-> the least seconds that a case can take, and by which rate."""
    times = {"copy": case.bytes / floors["copy"]}
    dtype = str(case.dtype).removeprefix("torch.")
    unit = f"matrix, {dtype}" if case.unit == "matrix" else case.unit
    if unit in floors:
        times[unit] = case.operations / floors[unit]
    which = max(times, key=lambda name: times[name])
    return times[which] * (case.backward if both else 1.0), which
