"""What can be known of the Triton kernels of contrastive losses without a GPU: as the launcher asks for them, they
compile for each chip, do not spill, fit its shared memory and use its matrix units. Values: test_triton.py.

``XMKERN_THOROUGH=1`` compiles many more of them.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compiled import MATRIX_UNITS, SHARED_BYTES, THOROUGH, compiler
from xmkern.ops.contrastive import Pairs
from xmkern.ops.contrastive import triton as launcher

KINDS = ("logsumexp", "mil", "softplus", "hinge", "margin", "maximum")
# Bytes of what a loop does not change that lie on the stack: what is left of the chip's registers holds the tile.
STACK = 64


@pytest.fixture
def assert_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """assert_fit(chip, **a call) checks the kernels that its forward and backward launch, and returns them"""
    compile_for = compiler(monkeypatch, tmp_path)

    def check(chip: int, **call: Any) -> Any:
        kernels = compile_for(chip, lambda: run(**call))
        for kernel in kernels:
            kernel.assert_fits(chip, STACK)
            if kernel.name in ("reduce_kernel", "slope_kernel"):
                assert MATRIX_UNITS[chip] in kernel.ptx, kernel.name
        return kernels

    return check


def run(
    B: int = 1024,
    N: int = 2048,
    D: int = 512,
    dtype: torch.dtype = torch.bfloat16,
    kind: str = "logsumexp",
    sorts: str = "ids",
) -> None:
    x, y = torch.zeros(B, D, dtype=dtype), torch.zeros(N, D, dtype=dtype)
    row, column = torch.zeros(B), torch.zeros(N)
    names = (row.long(), column.long())
    pairs = Pairs(
        *(names if sorts != "relevance" else (None, None)),
        *(names if sorts == "groups" else (None, None)),
        torch.zeros(B, N, dtype=torch.bool) if sorts == "relevance" else None,
        *((row, column) if kind in ("hinge", "margin") else (None, None)),
    )
    operands = (x, y, row, column, torch.tensor(0.0), *pairs)
    launcher.similarity_reduce(*operands, kind, True)
    if kind != "maximum":
        results = (row, row, column, column)
        launcher.similarity_reduce_backward(*results, *operands, *results, kind, True, True, True)


@pytest.mark.parametrize("chip", [80, 90, 100], ids="sm_{}".format)
def test_clip(assert_fit: Any, chip: int) -> None:
    kernels = assert_fit(chip)
    assert [kernel.name for kernel in kernels] == ["reduce_kernel", "merge_kernel"] * 2 + ["slope_kernel"]


def test_rows_are_read_in_vectors_of_any_length(assert_fit: Any) -> None:
    """72 numbers are no multiple of 16, which is what Triton looks for by itself."""
    kernels = assert_fit(90, B=60, N=60, D=72)
    assert re.search(r"cp\.async\.cg\.shared\.global .*0x10", kernels[0].ptx)


@THOROUGH
@pytest.mark.parametrize("sorts", ["ids", "groups", "relevance"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("chip", SHARED_BYTES, ids="sm_{}".format)
def test_every_kind(assert_fit: Any, chip: int, dtype: torch.dtype, kind: str, sorts: str) -> None:
    assert_fit(chip, dtype=dtype, kind=kind, sorts=sorts)


@THOROUGH
@pytest.mark.parametrize("shape", [(1024, 2048, 72), (1024, 2048, 101), (512, 512, 512), (40, 30, 64), (5, 3000, 20)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("chip", SHARED_BYTES, ids="sm_{}".format)
def test_every_shape(assert_fit: Any, chip: int, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    B, N, D = shape
    assert_fit(chip, B=B, N=N, D=D, dtype=dtype)
