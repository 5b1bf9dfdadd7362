"""The Triton launchers against the reference, values and gradients, in Triton's interpreter.

See tests/interpreter.py.
"""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from tests import interpreter
from tests.interpreter import DEVICE
from xmkern.ops import gpu
from xmkern.ops.epilogue import triton
from xmkern.testing import assert_matches_reference

pytest.importorskip("triton")


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(DEVICE, dtype).requires_grad_()


def norm(D: int = 70, shape: tuple[int, ...] = (3, 5), dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    names = ("weight", "bias", "linear_bias")
    operands = {name: drawn(*shape, D, dtype=dtype) for name in ("x", "residual")}
    return operands | {name: drawn(D, dtype=dtype) for name in names}


def assert_right(name: str, inputs: dict[str, Any]) -> None:
    assert_matches_reference(name, inputs, "triton")


def check_norms() -> None:
    for options in ({}, {"return_sum": True}, {"dropout_p": 0.3}, {"dropout_p": 0.3, "return_sum": True}):
        assert_right("add_layer_norm", norm() | options)
    assert_right("add_layer_norm", {"x": drawn(4, 9)})
    assert_right("add_layer_norm", norm(D=1) | {"eps": 0.1})
    rms = norm()
    del rms["bias"]
    assert_right("add_rms_norm", rms)


def check_sandwiches() -> None:
    for options in ({}, {"next_norm": True, "next_weight": drawn(70), "dropout_p": 0.3}):
        for pb_relax in (False, True):
            assert_right("sandwich_layer_norm", norm() | options | {"pb_relax": pb_relax})
    assert_right("add_layer_norm", norm() | {"pb_relax": True, "return_sum": True})


def check_dtypes() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        assert_right("add_layer_norm", norm(dtype=dtype) | {"return_sum": True})
        assert_right("gated_residual", {"x": drawn(4, 40, dtype=dtype), "residual": drawn(4, 40), "gate": drawn(40)})
        assert_right("gated_activation", {"x": drawn(4, 40, dtype=dtype), "bias": drawn(40, dtype=dtype)})


def check_several_blocks() -> None:
    with patch.object(triton, "_MOST_BLOCKS", 3):
        assert_right("add_layer_norm", norm(D=20, shape=(150,)))
        assert_right("gated_residual", {"x": drawn(90, 30), "residual": drawn(90, 30), "gate": drawn(30)})
        assert_right("bias_activation", {"x": drawn(90, 1100), "bias": drawn(1100)})


def check_gates() -> None:
    for shape in ((), (1,), (40,), (3, 5, 40)):
        for activation in (None, "tanh", "sigmoid"):
            inputs = {"x": drawn(3, 5, 40), "residual": drawn(3, 5, 40), "gate": drawn(*shape), "bias": drawn(40)}
            assert_right("gated_residual", inputs | {"activation": activation})
    assert_right("gated_residual", {"x": drawn(5, 40), "residual": drawn(5, 40)})


def check_activations() -> None:
    for activation in ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu"):
        for name in ("bias_activation", "gated_activation"):
            assert_right(name, {"x": drawn(3, 5, 40), "bias": drawn(40), "activation": activation})
    assert_right("gated_activation", {"x": drawn(2, 2100)})


def check_layouts() -> None:
    x = torch.randn(5, 3, 2, 40).to(DEVICE)[:, :, 1].transpose(0, 1).requires_grad_()
    y = torch.randn(40, 5, 3).to(DEVICE).permute(2, 1, 0).requires_grad_()
    assert_right("add_layer_norm", {"x": x, "residual": y})
    assert_right("gated_residual", {"x": y, "residual": x, "gate": x.detach()})
    assert_right("gated_activation", {"x": y, "bias": torch.randn(80).to(DEVICE)[::2]})


def check_no_rows() -> None:
    assert_right("sandwich_layer_norm", norm(shape=(0,)) | {"next_norm": True, "pb_relax": True})
    assert_right("gated_residual", {"x": drawn(0, 8), "residual": drawn(0, 8), "gate": drawn(0, 8), "bias": drawn(8)})
    assert_right("gated_activation", {"x": drawn(0, 8), "bias": drawn(8)})


CHECKS = interpreter.checks(globals())


@pytest.mark.parametrize("first", range(0, len(CHECKS), 4))
def test_in_the_interpreter(first: int) -> None:
    interpreter.run(__name__, list(CHECKS)[first : first + 4])


def test_import_leaves_triton_alone() -> None:
    interpreter.assert_import_leaves_triton_alone("xmkern.ops.epilogue.triton")


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 8)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "not on a CUDA GPU" in (triton.refuses(x) or "")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton.refuses(x, None) is None
    assert "not torch.float64" in (triton.refuses(x, x.double()) or "")
    assert "or more rows" in (triton.refuses(x[:1].expand(2**31, 8)) or "")
    assert "up to 8192 numbers, not 8200" in (triton.refuses_norm(None, torch.randn(3, 8200)) or "")
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    assert "not installed" in (triton.refuses(x) or "")


if __name__ == "__main__":
    interpreter.main(CHECKS)
