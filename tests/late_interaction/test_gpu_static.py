"""What can be known of the Triton kernels of late interaction without a GPU: as the launcher asks for them, they
compile for each chip, do not spill, fit its shared memory and use its matrix units. Values: test_triton.py.

``XMKERN_THOROUGH=1`` compiles many more of them.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compiled import MATRIX_UNITS, SHARED_BYTES, THOROUGH, compiler
from xmkern.ops.late_interaction import triton as launcher

STACK = 40  # bytes of what a loop does not change


@pytest.fixture
def assert_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """assert_fit(chip, **a call) checks the kernels that its forward and backward launch"""
    compile_for = compiler(monkeypatch, tmp_path)

    def check(chip: int, units: str = "mma", **call: Any) -> None:
        """units: of the instruction that multiplies matrices."""
        kernels = compile_for(chip, lambda: run(**call))
        assert {kernel.name for kernel in kernels} == {"best_kernel", "gradient_kernel"}
        for kernel in kernels:
            kernel.assert_fits(chip, STACK)
            assert units in kernel.ptx, kernel.name

    return check


def run(
    B: int = 64,
    N: int = 64,
    R: int = 49,
    T: int = 49,
    D: int = 256,
    dtype: torch.dtype = torch.bfloat16,
    masked: bool = True,
    both: bool = True,
) -> None:
    x, y = torch.zeros(B, R, D, dtype=dtype), torch.zeros(N, T, D, dtype=dtype)
    masks = [torch.ones(each.shape[:2], dtype=torch.bool) if masked else None for each in (x, y)]
    x_scores, y_scores, *winners = launcher.max_similarity(x, y, *masks, True, both)
    launcher.max_similarity_backward(x_scores, y_scores if both else None, x, y, *masks, *winners, True, True, True)


@pytest.mark.parametrize("chip", [80, 90, 100], ids="sm_{}".format)
def test_filip(assert_fit: Any, chip: int) -> None:
    assert_fit(chip, MATRIX_UNITS[chip])


@THOROUGH
@pytest.mark.parametrize("tokens", [(49, 32), (197, 77), (16, 16), (1, 300)], ids=str)
@pytest.mark.parametrize("masked", [True, False], ids="masked={}".format)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("chip", SHARED_BYTES, ids="sm_{}".format)
def test_every_kernel(assert_fit: Any, chip: int, dtype: torch.dtype, masked: bool, tokens: tuple[int, int]) -> None:
    R, T = tokens
    for D, both in ((256, True), (100, False), (20, True)):
        assert_fit(chip, B=8, N=12, R=R, T=T, D=D, dtype=dtype, masked=masked, both=both)
