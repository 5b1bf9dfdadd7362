"""What can be known of the Triton kernels of diffusion without a GPU: they compile for each chip, spill nothing, and a
step is one launch, or two where whole samples are looked at first. Values are tested in the interpreter."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compiled import SHARED_BYTES, THOROUGH, compiler
from xmkern.ops.diffusion import triton as launcher
from xmkern.ops.diffusion.op import _step_sample
from xmkern.ops.diffusion.reference import Numbers


@pytest.fixture
def assert_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    compile_for = compiler(monkeypatch, tmp_path)

    def assert_fit(chip: int, call: Any, launches: int) -> None:
        kernels = compile_for(chip, call)
        assert len(kernels) == launches
        for kernel in kernels:
            kernel.assert_fits(chip)
            assert "fma.rn.f32" not in kernel.ptx or kernel.name == "statistics_kernel"  # nothing is fused

    return assert_fit


def step(
    dtype: torch.dtype, variance: str = "fixed", drawn: bool = True, guided: bool = False, **numbers: float
) -> None:
    """At a size that is many programs."""
    example = Numbers(*_step_sample()[8])._replace(ratio=-1.0, rescale=0.0, guidance=3.0)
    x = torch.zeros(2, 4, 64, 64, dtype=dtype)
    output = torch.zeros(4 if guided else 2, 4 if variance == "fixed" else 8, 64, 64, dtype=dtype)
    noise = None if drawn else x
    mask = x[:, :1].expand(x.shape)
    launcher.diffusion_step(
        x,
        output,
        noise,
        x,
        mask,
        x,
        x,
        None,
        tuple(example._replace(**numbers)),
        7 if drawn else None,
        0,
        variance,
        True,
    )


@pytest.mark.parametrize("chip", [80, 90, 100], ids="sm_{}".format)
def test_a_step(assert_fit: Any, chip: int) -> None:
    assert_fit(chip, lambda: step(torch.float32, "learned_range", guided=True), launches=1)
    assert_fit(chip, lambda: step(torch.bfloat16, guided=True, ratio=0.9, rescale=0.5), launches=2)


@pytest.mark.parametrize("chip", [80, 90, 100], ids="sm_{}".format)
def test_noise(assert_fit: Any, chip: int) -> None:
    x, t, table = torch.zeros(2, 3, 64, 64), torch.zeros(2, dtype=torch.int64), torch.ones(10)
    assert_fit(chip, lambda: launcher.q_sample(x, t, table, None, 3, 5, "v"), launches=1)
    assert_fit(chip, lambda: launcher.philox_normal(x, 3, 2**40), launches=1)


@THOROUGH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("chip", SHARED_BYTES, ids="sm_{}".format)
def test_every_kernel(assert_fit: Any, chip: int, dtype: torch.dtype) -> None:
    for variance in ("fixed", "learned", "learned_range"):
        for drawn in (True, False):
            for guided in (True, False):
                assert_fit(chip, lambda v=variance, d=drawn, g=guided: step(dtype, v, d, g), launches=1)
                assert_fit(chip, lambda v=variance, d=drawn, g=guided: step(dtype, v, d, g, ratio=0.995), launches=2)
