"""Which Triton kernels there are, and which of them something launches."""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xmkern.ops

Name = tuple[str, str]  # module, kernel


def all_kernels() -> set[Name]:
    """Of every family: what is decorated for Triton and is no helper of others."""
    found = set()
    for module in pkgutil.walk_packages(xmkern.ops.__path__, "xmkern.ops."):
        if module.name.rpartition(".")[2].startswith("triton") and "@triton.jit" in _source(module):
            for name, value in vars(importlib.import_module(module.name)).items():
                if name.endswith("_kernel") and name_of(value)[0] == module.name:
                    found.add(name_of(value))
    return found


def _source(module: pkgutil.ModuleInfo) -> str:
    spec = module.module_finder.find_spec(module.name, None)  # type: ignore[call-arg]
    return Path(spec.origin).read_text() if spec and spec.origin else ""


def name_of(kernel: Any) -> Name:
    """Of a kernel that is compiled, or of one that is interpreted."""
    return kernel.fn.__module__, kernel.fn.__name__


def recorder(found: list[tuple[Name, dict[str, Any]]]) -> Callable[..., None]:
    """What to put in place of gpu.launch: notes the kernel and its constants, and launches nothing."""

    def launch(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
        found.append((name_of(kernel), constants))

    return launch
