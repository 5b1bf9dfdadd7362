"""Compiles the Triton kernels that a call launches, for chips that need not be there, and reads what came of them.

The launcher runs as it is, on tensors of the CPU, with a driver that has no GPU behind it: kernels are compiled with
the very arguments that they would be launched with.
"""

import re
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from xmkern.ops import gpu

SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10, 100: 227 << 10}  # what one block may have
REGISTERS = 65536  # of a multiprocessor, which one block may have
PROCESSORS = 132
_WIDE = r"\.(v4\.b32|v2\.b64|v8\.b16|v8\.b32|v4\.b64)"
# What a kernel's speed may hang on, as it stands in PTX.
INSTRUCTIONS = {
    "mma": r"\bmma\.sync",
    "wgmma": r"wgmma\.mma_async",
    "tcgen05": r"tcgen05\.mma",
    "popc": r"popc\.b32",
    "exp2": r"ex2\.approx",
    "load128": rf"ld\.global[\w.:]*{_WIDE}|cp\.async\.cg",
    "store128": rf"st\.global[\w.:]*{_WIDE}",
}


@dataclass(frozen=True)
class Figures:
    """Of one kernel. registers: of a thread; stack: bytes of a thread, where what finds no register lies; shared: bytes
    of a block."""

    kernel: str
    tiles: str
    warps: int
    registers: int
    stack: int
    shared: int
    instructions: tuple[str, ...]

    def misfits(self, chip: int) -> Iterator[str]:
        """Why it could not run."""
        if self.shared > SHARED_BYTES[chip]:
            yield f"{self.shared} bytes of shared memory, more than the {SHARED_BYTES[chip]} of a block"
        if self.registers * 32 * self.warps > REGISTERS:
            yield f"{self.registers} registers in each of {32 * self.warps} threads, more than {REGISTERS} in all"


class _NoGpu:
    """Stands in for Triton's driver: says what chip to compile for."""

    def __init__(self, chip: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", chip, 32)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch  # compiled kernels are kept by device

    def get_current_stream(self, device: int = 0) -> int:
        return 0


@contextmanager
def launches_go_to(launch: Callable[..., None], chip: int) -> Iterator[None]:
    """Hands launches for a chip to a function of (kernel, programs, *arguments, **constants)."""
    stands_in = gpu.Chip(chip, SHARED_BYTES[chip], PROCESSORS)
    with patch.object(gpu, "launch", launch), patch.object(gpu, "chip_of", lambda device: stands_in):
        yield


def compiled(chip: int, call: Callable[[], Any]) -> list[tuple[Figures, str]]:
    """The kernels that a call launches, each once, with their PTX."""
    from triton.runtime import driver

    found: dict[str, tuple[Figures, str]] = {}

    def launch(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Triton's own notices of defaults to come
            made = kernel.warmup(*args, grid=(programs,), **{"enable_fp_fusion": True, **constants})
        if made.hash not in found:
            found[made.hash] = _figures(kernel.__name__, made, constants), made.asm["ptx"]

    with launches_go_to(launch, chip), patch.object(driver, "_active", _NoGpu(chip)), torch.no_grad():
        call()
    return list(found.values())


def _figures(name: str, made: Any, constants: dict[str, Any]) -> Figures:
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        Path(binary.name).write_bytes(made.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", binary.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.findall(rf"{what}:(\d+)", usage)[0]) for what in ("REG", "STACK"))
    ptx, warps = made.asm["ptx"], made.metadata.num_warps
    instructions = tuple(each for each, pattern in INSTRUCTIONS.items() if re.search(pattern, ptx))
    return Figures(name, _tiles(constants), warps, registers, stack, made.metadata.shared, instructions)


def _tiles(constants: dict[str, Any]) -> str:
    """The sizes among a kernel's constants."""
    sizes = (f"{k.removeprefix('num_')}={v}" for k, v in constants.items() if type(v) is int and v > 1)
    return " ".join(sizes).lower()
