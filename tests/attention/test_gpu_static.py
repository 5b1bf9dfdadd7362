"""What can be known of attention's Triton kernels without a GPU: as the launcher asks for them, they compile for each
chip, do not spill, fit its shared memory and use its matrix units. Values: test_triton.py.

The launcher runs as it is, on tensors of the CPU, with a driver that has no GPU behind it: kernels are compiled with
the very arguments that they would be launched with. ``XMKERN_THOROUGH=1`` compiles many more of them.
"""

import os
import re
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xmkern.ops.attention import triton as launcher

SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10, 100: 227 << 10}  # what one block may have
MATRIX_UNITS = {80: "mma.sync", 86: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
CAUSAL = [2, -(2**62), 0]
THOROUGH = pytest.mark.skipif(not os.environ.get("XMKERN_THOROUGH"), reason="takes minutes: set XMKERN_THOROUGH=1")
L = 1024


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


@pytest.fixture
def compile_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """compile_for(chip, **a call of attention) -> the kernels that its forward and backward launch"""
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET"):
        pytest.skip("the interpreter is on, so kernels are not compiled")
    from triton.runtime import driver

    def compile_call(chip: int, **call: Any) -> list[Compiled]:
        found: list[Compiled] = []

        def launch(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Triton's own notices of defaults to come
                made = kernel.warmup(*args, grid=(programs,), enable_fp_fusion=True, **constants)
            found.append(Compiled(kernel.__name__, made, tmp_path))

        monkeypatch.setattr(launcher, "launch", launch)
        chip_of = lambda device: launcher.arguments.Chip(chip, SHARED_BYTES[chip], 132)  # noqa: E731
        monkeypatch.setattr(launcher.arguments, "chip_of", chip_of)
        monkeypatch.setattr(driver, "_active", NoGpu(chip))
        run(**call)
        return found

    return compile_call


def run(
    B: int = 2,
    H: int = 4,
    Hk: int = 4,
    L: int = L,
    S: int = L,
    D: int = 64,
    dtype: torch.dtype = torch.bfloat16,
    mask: list[int] | None = None,
    tensors: tuple[torch.Tensor, ...] = (),
    bias: torch.Tensor | None = None,
    buckets: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    backward: bool = True,
) -> None:
    query, key, value = (torch.empty(B, h, n, D, dtype=dtype) for h, n in ((H, L), (Hk, S), (Hk, S)))
    rest = (mask or [], list(tensors), bias, buckets, 0.1, dropout_p, torch.tensor([1]) if dropout_p else None)
    out, lse = launcher.attention(query, key, value, *rest)
    if backward:
        launcher.attention_backward(out, None, query, key, value, out, lse, *rest, bias is not None)


CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "causal": lambda: {"mask": CAUSAL},
    "prefix": lambda: {"mask": [3, 0, *CAUSAL, 1], "tensors": (torch.zeros(2, dtype=torch.int64),)},
    "grid": lambda: {"mask": [4, 256, 32, 24, -1, 1, -1, 1, *CAUSAL, 0]},
    "segments": lambda: {"mask": [5, 0, 0, *CAUSAL, 0], "tensors": (torch.zeros(1, L, dtype=torch.int64),)},
    "dense": lambda: {"mask": [6, 0], "tensors": (torch.zeros(1, 1, L, L, dtype=torch.bool),)},
    "bias": lambda: {"bias": torch.zeros(1, 4, L, L)},
    "row": lambda: {"bias": torch.zeros(2, 1, 1, L)},
    "toeplitz": lambda: {"bias": torch.zeros(1, 4, 2 * L - 1)},
    "buckets": lambda: {"bias": torch.zeros(1, 4, 32), "buckets": torch.zeros(L, L, dtype=torch.int32)},
    "dropout": lambda: {"dropout_p": 0.1, "mask": CAUSAL},
    "everything": lambda: {"dropout_p": 0.1, "bias": torch.zeros(1, 4, L, L), "mask": CAUSAL},
    "short": lambda: {"L": 50, "S": 50},
    "few queries": lambda: {"Hk": 2, "L": 12, "mask": CAUSAL},
    "few keys": lambda: {"S": 40},
    "decoding": lambda: {"H": 32, "L": 1, "S": 8192, "backward": False},
}


MATRIX_KERNELS = ("forward_kernel", "grad_query_kernel", "grad_key_value_kernel", "grad_bias_kernel")


def assert_fit(kernels: list[Compiled], chip: int, stack: int = 0, units: str = "mma") -> None:
    """stack: bytes of it that a kernel may have; units: of the instruction that multiplies matrices."""
    assert kernels
    for kernel in kernels:
        assert kernel.shared <= SHARED_BYTES[chip], f"{kernel.name} has {kernel.shared} bytes of shared memory"
        assert kernel.stack <= stack, f"{kernel.name} has {kernel.stack} bytes on the stack"
        if kernel.name in MATRIX_KERNELS:
            assert units in kernel.ptx, kernel.name


@pytest.mark.parametrize("chip", [80, 90, 100], ids="sm_{}".format)
def test_plain_kernels(compile_for: Any, chip: int) -> None:
    assert_fit(compile_for(chip, **CALLS["causal"]()), chip, units=MATRIX_UNITS[chip])


@pytest.mark.parametrize("call", ["segments", "toeplitz", "decoding"])
def test_other_kernels(compile_for: Any, call: str) -> None:
    assert_fit(compile_for(90, **CALLS[call]()), 90)


def test_rows_of_forty_are_read_in_vectors(compile_for: Any) -> None:
    """Diffusion's head size is no multiple of 16, which is what Triton looks for by itself."""
    kernels = compile_for(90, D=40, backward=False)
    assert re.search(r"cp\.async\.cg\.shared\.global .*0x10", kernels[0].ptx)


@THOROUGH
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("depth", [64, 128])
@pytest.mark.parametrize("chip", SHARED_BYTES, ids="sm_{}".format)
def test_every_kernel(compile_for: Any, chip: int, depth: int, call: str) -> None:
    crowded = not {"bias", "dropout_p"}.isdisjoint(CALLS[call]())
    assert_fit(compile_for(chip, D=depth, **CALLS[call]()), chip, stack=96 if crowded else 40)


@THOROUGH
@pytest.mark.parametrize("call", ["causal", "everything", "few queries"])
@pytest.mark.parametrize("chip", SHARED_BYTES, ids="sm_{}".format)
def test_large_heads(compile_for: Any, chip: int, call: str) -> None:
    assert_fit(compile_for(chip, D=256, **CALLS[call]()), chip, stack=160)


@THOROUGH
@pytest.mark.parametrize(("depth", "stack"), [(64, 64), (128, 160), (256, 8)])
@pytest.mark.parametrize("call", ["causal", "everything", "few queries"])
@pytest.mark.parametrize("chip", SHARED_BYTES, ids="sm_{}".format)
def test_float32(compile_for: Any, chip: int, call: str, depth: int, stack: int) -> None:
    """Not all of them use matrix units."""
    if chip == 86 and depth == 256:
        pytest.skip("the launcher refuses them: too little shared memory")
    assert_fit(compile_for(chip, D=depth, dtype=torch.float32, **CALLS[call]()), chip, stack, units="")
