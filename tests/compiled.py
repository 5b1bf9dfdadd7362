"""Compiles the Triton kernels that a call launches, for chips that need not be there.

The launcher runs as it is, on tensors of the CPU, with a driver that has no GPU behind it: kernels are compiled with
the very arguments that they would be launched with.
"""

import os
import re
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xmkern.ops import gpu

SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10, 100: 227 << 10}  # what one block may have
MATRIX_UNITS = {80: "mma.sync", 86: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
THOROUGH = pytest.mark.skipif(not os.environ.get("XMKERN_THOROUGH"), reason="takes minutes: set XMKERN_THOROUGH=1")


class NoGpu:
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


class Compiled:
    def __init__(self, name: str, kernel: Any, folder: Path) -> None:
        import triton

        self.name, self.shared, self.ptx = name, kernel.metadata.shared, kernel.asm["ptx"]
        binary = folder / "kernel.cubin"
        binary.write_bytes(kernel.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(binary)]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        self.stack = int(re.findall(r"STACK:(\d+)", usage)[0])  # what does not fit in registers lies there

    def assert_fits(self, chip: int, stack: int = 0) -> None:
        """stack: bytes of it that the kernel may have."""
        assert self.shared <= SHARED_BYTES[chip], f"{self.name} has {self.shared} bytes of shared memory"
        assert self.stack <= stack, f"{self.name} has {self.stack} bytes on the stack"


def compiler(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[[int, Callable[[], Any]], list[Compiled]]:
    """-> compile_for(chip, call), which returns the kernels that the call launches"""
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET"):
        pytest.skip("the interpreter is on, so kernels are not compiled")
    from triton.runtime import driver

    def compile_for(chip: int, call: Callable[[], Any]) -> list[Compiled]:
        found: list[Compiled] = []

        def launch(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Triton's own notices of defaults to come
                made = kernel.warmup(*args, grid=(programs,), **{"enable_fp_fusion": True, **constants})
            found.append(Compiled(kernel.__name__, made, folder))

        monkeypatch.setattr(gpu, "launch", launch)
        monkeypatch.setattr(gpu, "chip_of", lambda device: gpu.Chip(chip, SHARED_BYTES[chip], 132))
        monkeypatch.setattr(driver, "_active", NoGpu(chip))
        call()
        assert found
        return found

    return compile_for
