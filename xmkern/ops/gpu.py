"""What the launchers of Triton kernels share. Nothing here imports Triton."""

import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Chip:
    """What the choice of tiles depends on. capability: as in sm_90; shared: bytes of shared memory a block may have."""

    capability: int
    shared: int
    processors: int

    @property
    def sort(self) -> str:
        """ "warpgroup" has matrix units that read shared memory (sm_90, sm_100), "large" 160 KB of it a block (sm_80),
        "small" 99 KB."""
        if self.shared < 160 << 10:
            return "small"
        return "warpgroup" if self.capability >= 90 else "large"


@cache
def chip_of(device: torch.device) -> Chip:
    if device.type != "cuda":
        return Chip(90, 227 << 10, 4)  # the interpreter
    found = torch.cuda.get_device_properties(device)
    shared = getattr(found, "shared_memory_per_block_optin", 99 << 10)
    return Chip(found.major * 10 + found.minor, shared, found.multi_processor_count)


def refuses(x: Tensor) -> str | None:
    """Why the Triton kernels, which compute with floating-point numbers, cannot take a tensor, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not interpreted():
        if x.device.type != "cuda":
            return "the tensors are not on a CUDA GPU and Triton's interpreter is off (TRITON_INTERPRET=1)"
        if chip_of(x.device).capability < 80:
            return "the GPU is older than compute capability 8.0"
    if x.dtype not in _DTYPES:
        return f"the kernels take float32, bfloat16 and float16, not {x.dtype}"
    return None


def interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "y", "on")


def precision(dtype: torch.dtype) -> str:
    """How operands are multiplied: float32 as exactly as torch's own products, which users set."""
    if interpreted():
        return "wide"
    if dtype != torch.float32 or torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    return "tf32x3"


def launch(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
    # Triton means to stop joining products and sums of its own accord; the kernels are measured with it.
    kernel[(programs,)](*args, **{"enable_fp_fusion": True, **constants})


def on(x: Tensor) -> Any:
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device_of(x)


def power_of_two(x: int) -> int:
    """Not less than x."""
    return 1 << max(0, x - 1).bit_length()


def cdiv(a: int, b: int) -> int:
    return -(-a // b)
