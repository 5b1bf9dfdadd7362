"""What can be known of the Triton kernels of attention both ways without a GPU: as the launcher asks for them, they
compile for each chip, do not spill, fit its shared memory and use matrix units. Values: test_triton.py.

``XMKERN_THOROUGH=1`` compiles many more of them.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compiled import SHARED_BYTES, THOROUGH, compiler
from xmkern.ops.bi_attention import triton as launcher

STACK = 40  # bytes of what a loop does not change


@pytest.fixture
def assert_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """assert_fit(chip, **a call) checks the kernels that its forward and backward launch"""
    compile_for = compiler(monkeypatch, tmp_path)

    def check(chip: int, **call: Any) -> None:
        kernels = compile_for(chip, lambda: run(**call))
        assert {kernel.name for kernel in kernels} == {"forward_kernel", "gradient_kernel"}
        for kernel in kernels:
            kernel.assert_fits(chip, STACK)
            assert "mma" in kernel.ptx, kernel.name  # of any generation: some tiles are smaller than the newest takes

    return check


def run(
    L: int = 196,
    S: int = 26,
    D: int = 512,
    dtype: torch.dtype = torch.bfloat16,
    masked: bool = True,
    tanh: bool = False,
    softmax: bool = True,
) -> None:
    a, b = torch.zeros(16, 1, L, D, dtype=dtype), torch.zeros(16, 1, S, D, dtype=dtype)
    masks = [torch.ones(16, n, dtype=torch.bool) if masked else None for n in (L, S)]
    results = launcher.bi_attention(a, b, a, b, *masks, 0.1, tanh, softmax)
    launcher.bi_attention_backward(a, b, a, b, a, b, *masks, *results, 0.1, tanh, softmax)


@pytest.mark.parametrize("form", [(False, True), (True, False)], ids=["softmax", "tanh"])
@pytest.mark.parametrize("chip", [80, 90, 100], ids="sm_{}".format)
def test_regions_and_words(assert_fit: Any, chip: int, form: tuple[bool, bool]) -> None:
    tanh, softmax = form
    assert_fit(chip, tanh=tanh, softmax=softmax)


@THOROUGH
@pytest.mark.parametrize("rows", [(197, 40), (16, 16), (1, 300)], ids=str)
@pytest.mark.parametrize("masked", [True, False], ids="masked={}".format)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("chip", SHARED_BYTES, ids="sm_{}".format)
def test_every_kernel(assert_fit: Any, chip: int, dtype: torch.dtype, masked: bool, rows: tuple[int, int]) -> None:
    L, S = rows
    for D, tanh, softmax in ((512, False, True), (100, True, True), (20, True, False), (64, False, False)):
        assert_fit(chip, L=L, S=S, D=D, dtype=dtype, masked=masked, tanh=tanh, softmax=softmax)
