"""The compiled extension: found once, its absence remembered and told in one sentence."""

import importlib
import os
import warnings
from types import ModuleType

# torch first: the extension shares the OpenMP runtime that torch brings along.
import torch

# The dtypes that kernels take, as the extension numbers them (csrc/core/dtype.h).
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def _load() -> tuple[ModuleType | None, str | None]:
    try:
        module = importlib.import_module("xmkern._native")
    except ImportError as error:
        return None, f"the native extension of xmkern cannot be loaded ({error}); `pip install .` builds it"
    wanted = os.environ.get("XMKERN_CPU_CAPABILITY")
    if wanted:
        try:
            module.set_capability(wanted)
        except ValueError as error:
            raise ValueError(f"XMKERN_CPU_CAPABILITY: {error}") from None
    return module, None


_module, _missing = _load()

# Whether the extension reads tensors by itself, for calls that make a small kernel's time: torch has what it needs for
# that from 2.10 on.
READS_TENSORS: bool = _module is not None and _module.learn_tensors(
    torch.Tensor, torch.nn.Parameter, torch.empty_like, torch.empty(0, dtype=torch.float32, device="cpu")
)

# Whether Intel made the processor: torch's BLAS uses AVX-512 to the full on no other.
MADE_BY_INTEL: bool = _module is not None and _module.made_by_intel()


def why_missing() -> str | None:
    """Why there is no native extension, or None if there is one."""
    return _missing


def module() -> ModuleType:
    """The extension module. Raises RuntimeError with the reason if it is missing."""
    if _module is None:
        raise RuntimeError(_missing)
    return _module


def warn_if_missing() -> None:
    if _missing:
        warnings.warn(f"{_missing}. Every call is served by plain PyTorch.", RuntimeWarning, stacklevel=3)


def cpu_capabilities() -> list[str]:
    """The instruction-set levels that kernels can use on this processor, lowest first; empty without the extension.

    All levels: ``baseline``, ``avx2``, ``avx512``, ``avx512_vpopcntdq``, ``avx512_bf16``; each has all before it.
    """
    return _module.capabilities() if _module else []


def cpu_capability() -> str | None:
    """The level in force: the highest that the processor has, unless ``XMKERN_CPU_CAPABILITY`` names a lower one."""
    return _module.capability() if _module else None


def set_cpu_capability(name: str) -> None:
    """Makes kernels use the named level (see :func:`cpu_capabilities`). For tests and comparisons.

    Raises:
        ValueError: the name is unknown or the processor lacks the level.
        RuntimeError: the native extension is missing.
    """
    module().set_capability(name)
