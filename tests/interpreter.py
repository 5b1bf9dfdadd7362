"""Runs a test file's ``check_`` functions in Triton's interpreter.

The interpreter must be on before Triton is imported, so such a file runs itself: its tests start it as a program with
the names of some checks. On a machine with a GPU, ``python -m tests.<family>.test_triton`` runs all of them there.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
DEVICE = "cuda" if torch.cuda.is_available() and not os.environ.get("TRITON_INTERPRET") else "cpu"
THOROUGH = DEVICE == "cuda" or bool(os.environ.get("XMKERN_THOROUGH"))  # the interpreter takes seconds for a case

Checks = Mapping[str, Callable[[], None]]


def checks(names: Mapping[str, Any]) -> Checks:
    """Those of a file, in its order."""
    return {name: check for name, check in names.items() if name.startswith("check_")}


def run(module: str, wanted: Iterable[str]) -> None:
    """Some checks of a module in one process: each start of Python and torch takes about as long as a check."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", module, *wanted], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def main(found: Checks) -> None:
    """What the file does as a program: the checks that are named, or all."""
    for wanted in sys.argv[1:] or found:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        found[wanted]()


def assert_import_leaves_triton_alone(module: str) -> None:
    code = f"import sys, torch; had = 'triton' in sys.modules; import {module}; "
    code += "assert had or 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
