"""What can be known of the Triton kernels without a GPU: as the launcher asks for them, they compile for each chip and
do not spill. Values: test_triton.py.

``XMKERN_THOROUGH=1`` compiles many more of them.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compiled import SHARED_BYTES, THOROUGH, compiler
from xmkern.ops.epilogue import triton as launcher

KERNELS = {
    "norm_kernel", "norm_backward_kernel", "gate_kernel", "gate_backward_kernel", "activation_kernel",
    "activation_backward_kernel",
}  # fmt: skip


@pytest.fixture
def assert_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    compile_for = compiler(monkeypatch, tmp_path)

    def check(chip: int, **call: Any) -> None:
        kernels = compile_for(chip, lambda: run(**call))
        assert {kernel.name for kernel in kernels} == KERNELS
        for kernel in kernels:
            kernel.assert_fits(chip)

    return check


def run(
    D: int = 1024,
    dtype: torch.dtype = torch.bfloat16,
    dropout_p: float = 0.1,
    inner: bool = True,
    activation: str = "gelu",
    gate: str | None = "tanh",
    dense: bool = True,
) -> None:
    """All of a norm that there is to compile, a gate and an activation, forward and backward."""
    x, wide = torch.empty(2, 100, D, dtype=dtype), torch.empty(2, 100, 2 * D, dtype=dtype)
    vector = torch.empty(D, dtype=dtype)
    seed = torch.tensor([1]) if dropout_p else None
    flags = (inner, True, inner, False, False)
    *_, moments = launcher.add_norm(x, x, vector, vector, vector, vector, vector, *flags, 1e-5, dropout_p, seed)
    kept = x if inner else None
    launcher.add_norm_backward(
        x, kept, x, None if inner else x, kept, moments, vector, vector if inner else None,
        vector if inner else None, vector, vector, inner, False, True, dropout_p, seed,
    )  # fmt: skip
    opening = x if dense else vector
    launcher.gated_residual(x, x, opening, vector, gate)
    launcher.gated_residual_backward(x, x, opening, vector, gate)
    launcher.bias_activation(wide, torch.empty(2 * D, dtype=dtype), activation, True)
    launcher.bias_activation_backward(x, wide, torch.empty(2 * D, dtype=dtype), activation, True)


@pytest.mark.parametrize("chip", [80, 90, 100], ids="sm_{}".format)
def test_as_in_a_transformer(assert_fit: Any, chip: int) -> None:
    assert_fit(chip)


@THOROUGH
@pytest.mark.parametrize("inner", [True, False], ids="inner={}".format)
@pytest.mark.parametrize("D", [20, 320, 768, 4096, 8192])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("chip", SHARED_BYTES, ids="sm_{}".format)
def test_every_kernel(assert_fit: Any, chip: int, dtype: torch.dtype, D: int, inner: bool) -> None:
    assert_fit(chip, D=D, dtype=dtype, inner=inner, dropout_p=0.1 if inner else 0.0, gate=None, dense=inner)
    assert_fit(chip, D=D, dtype=dtype, inner=inner, dropout_p=0.1, activation="silu", gate="sigmoid", dense=not inner)
