"""What can be known of attention's Triton kernels without a GPU: as the launcher asks for them, they compile for each
chip, do not spill, fit its shared memory and use its matrix units. Values: test_triton.py.

``XMKERN_THOROUGH=1`` compiles many more of them.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compiled import MATRIX_UNITS, SHARED_BYTES, THOROUGH, Compiled, compiler
from xmkern.ops.attention import triton as launcher

CAUSAL = [2, -(2**62), 0]
L = 1024


@pytest.fixture
def compile_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """compile_for(chip, **a call of attention) -> the kernels that its forward and backward launch"""
    compiled = compiler(monkeypatch, tmp_path)
    return lambda chip, **call: compiled(chip, lambda: run(**call))


def run(
    B: int = 2,
    H: int = 4,
    Hk: int = 4,
    L: int = L,
    S: int = L,
    D: int = 64,
    dtype: torch.dtype = torch.bfloat16,
    mask: list[int] | None = None,
    tensors: tuple[torch.Tensor, ...] = (),
    bias: torch.Tensor | None = None,
    buckets: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    backward: bool = True,
) -> None:
    query, key, value = (torch.empty(B, h, n, D, dtype=dtype) for h, n in ((H, L), (Hk, S), (Hk, S)))
    rest = (mask or [], list(tensors), bias, buckets, 0.1, dropout_p, torch.tensor([1]) if dropout_p else None)
    out, lse = launcher.attention(query, key, value, *rest)
    if backward:
        launcher.attention_backward(out, None, query, key, value, out, lse, *rest, bias is not None)


CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "causal": lambda: {"mask": CAUSAL},
    "prefix": lambda: {"mask": [3, 0, *CAUSAL, 1], "tensors": (torch.zeros(2, dtype=torch.int64),)},
    "grid": lambda: {"mask": [4, 256, 32, 24, -1, 1, -1, 1, *CAUSAL, 0]},
    "segments": lambda: {"mask": [5, 0, 0, *CAUSAL, 0], "tensors": (torch.zeros(1, L, dtype=torch.int64),)},
    "dense": lambda: {"mask": [6, 0], "tensors": (torch.zeros(1, 1, L, L, dtype=torch.bool),)},
    "bias": lambda: {"bias": torch.zeros(1, 4, L, L)},
    "row": lambda: {"bias": torch.zeros(2, 1, 1, L)},
    "toeplitz": lambda: {"bias": torch.zeros(1, 4, 2 * L - 1)},
    "buckets": lambda: {"bias": torch.zeros(1, 4, 32), "buckets": torch.zeros(L, L, dtype=torch.int32)},
    "dropout": lambda: {"dropout_p": 0.1, "mask": CAUSAL},
    "everything": lambda: {"dropout_p": 0.1, "bias": torch.zeros(1, 4, L, L), "mask": CAUSAL},
    "short": lambda: {"L": 50, "S": 50},
    "few queries": lambda: {"Hk": 2, "L": 12, "mask": CAUSAL},
    "few keys": lambda: {"S": 40},
    "decoding": lambda: {"H": 32, "L": 1, "S": 8192, "backward": False},
}


MATRIX_KERNELS = ("forward_kernel", "grad_query_kernel", "grad_key_value_kernel", "grad_bias_kernel")


def assert_fit(kernels: list[Compiled], chip: int, stack: int = 0, units: str = "mma") -> None:
    """stack: bytes of it that a kernel may have; units: of the instruction that multiplies matrices."""
    for kernel in kernels:
        kernel.assert_fits(chip, stack)
        if kernel.name in MATRIX_KERNELS:
            assert units in kernel.ptx, kernel.name


@pytest.mark.parametrize("chip", [80, 90, 100], ids="sm_{}".format)
def test_plain_kernels(compile_for: Any, chip: int) -> None:
    assert_fit(compile_for(chip, **CALLS["causal"]()), chip, units=MATRIX_UNITS[chip])


@pytest.mark.parametrize("call", ["segments", "toeplitz", "decoding"])
def test_other_kernels(compile_for: Any, call: str) -> None:
    assert_fit(compile_for(90, **CALLS[call]()), 90)


def test_rows_of_forty_are_read_in_vectors(compile_for: Any) -> None:
    """Diffusion's head size is no multiple of 16, which is what Triton looks for by itself."""
    kernels = compile_for(90, D=40, backward=False)
    assert re.search(r"cp\.async\.cg\.shared\.global .*0x10", kernels[0].ptx)


@THOROUGH
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("depth", [64, 128])
@pytest.mark.parametrize("chip", SHARED_BYTES, ids="sm_{}".format)
def test_every_kernel(compile_for: Any, chip: int, depth: int, call: str) -> None:
    crowded = not {"bias", "dropout_p"}.isdisjoint(CALLS[call]())
    assert_fit(compile_for(chip, D=depth, **CALLS[call]()), chip, stack=96 if crowded else 40)


@THOROUGH
@pytest.mark.parametrize("call", ["causal", "everything", "few queries"])
@pytest.mark.parametrize("chip", SHARED_BYTES, ids="sm_{}".format)
def test_large_heads(compile_for: Any, chip: int, call: str) -> None:
    assert_fit(compile_for(chip, D=256, **CALLS[call]()), chip, stack=160)


@THOROUGH
@pytest.mark.parametrize(("depth", "stack"), [(64, 64), (128, 160), (256, 8)])
@pytest.mark.parametrize("call", ["causal", "everything", "few queries"])
@pytest.mark.parametrize("chip", SHARED_BYTES, ids="sm_{}".format)
def test_float32(compile_for: Any, chip: int, call: str, depth: int, stack: int) -> None:
    """Not all of them use matrix units."""
    if chip == 86 and depth == 256:
        pytest.skip("the launcher refuses them: too little shared memory")
    assert_fit(compile_for(chip, D=depth, dtype=torch.float32, **CALLS[call]()), chip, stack, units="")
