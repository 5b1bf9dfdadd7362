"""Prints the kernels that the checks of the interpreter's tests launch, without running a kernel or comparing values:
``python -m tests.gpu.interpreted``, with TRITON_INTERPRET=1."""

import contextlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from tests import interpreter
from tests.gpu.kernels import recorder
from xmkern.ops import gpu

FILES = sorted(path.parent.name for path in Path(__file__).parents[1].glob("*/test_triton.py"))


def call_once(op: Callable[..., Any] | str, inputs: Mapping[str, Any], backend: str = "triton", **rest: Any) -> None:
    """In the place of assert_matches_reference: the call, and its gradients."""
    if isinstance(op, str):
        name = op
        op = lambda **given: getattr(importlib.import_module("xmkern.functional"), name)(**given, backend=backend)  # noqa: E731
    outputs = op(**inputs)
    outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
    graded = [out for out in outputs if isinstance(out, torch.Tensor) and out.requires_grad]
    if graded:
        torch.autograd.backward(graded, [torch.ones_like(out) for out in graded])


def main() -> None:
    found: list[Any] = []
    for family in FILES:
        module = importlib.import_module(f"tests.{family}.test_triton")
        with (
            patch.object(gpu, "launch", recorder(found)),
            patch.object(module, "assert_matches_reference", call_once, create=True),
            patch.object(torch.testing, "assert_close", lambda *args, **kwargs: None),
        ):
            for check in interpreter.checks(vars(module)).values():
                # Nothing was computed, so what a check says of values is wrong.
                with contextlib.suppress(AssertionError, RuntimeError, IndexError):
                    check()
    for name in sorted({name for name, _ in found}):
        print(*name)


if __name__ == "__main__":
    main()
