"""The Triton launchers of attention both ways against the reference, values and gradients, in Triton's interpreter.

See tests/interpreter.py.
"""

from typing import Any

import pytest
import torch

import xmkern.functional as xf
from tests import interpreter
from tests.interpreter import DEVICE
from xmkern.ops.bi_attention import triton
from xmkern.testing import assert_matches_reference

pytest.importorskip("triton")


def operands(B: int, H: int, L: int, S: int, D: int, Da: int, Db: int, dtype: torch.dtype) -> dict[str, Any]:
    shapes = {"a": (B, H, L, D), "b": (B, H, S, D), "v_a": (B, H, L, Da), "v_b": (B, H, S, Db)}
    return {name: torch.randn(shape).to(DEVICE, dtype).requires_grad_() for name, shape in shapes.items()}


def assert_right(
    B: int = 2,
    H: int = 2,
    L: int = 40,
    S: int = 9,
    D: int = 24,
    Da: int = 20,
    Db: int = 33,
    dtype: torch.dtype = torch.float32,
    masked: bool = True,
    **options: Any,
) -> None:
    inputs = {**operands(B, H, L, S, D, Da, Db, dtype), **options}
    if masked:
        inputs["mask_a"], inputs["mask_b"] = ((torch.rand(B, n) < 0.7).to(DEVICE) for n in (L, S))
        inputs["mask_b"][-1:] = False  # nothing to attend to
    assert_matches_reference("bi_attention", inputs, "triton")


def check_shapes() -> None:
    assert_right()
    assert_right(B=1, H=1, L=3, S=2, D=1, Da=1, Db=1, masked=False)
    assert_right(L=7, S=70, D=16, Da=32, Db=64)
    for empty in ({"B": 0}, {"L": 0}, {"S": 0}):
        assert_right(**empty)


def check_forms() -> None:
    assert_right(affinity="tanh", normalize=None)
    assert_right(affinity="tanh", masked=False)
    assert_right(normalize=None, scale=0.05)
    assert_right(scale=-0.3)


def check_several_tiles() -> None:
    assert_right(B=1, H=1, L=150, S=70, D=40, Da=300, Db=140)


def check_dtypes() -> None:
    assert_right(dtype=torch.bfloat16, D=70)
    assert_right(dtype=torch.float16, masked=False, affinity="tanh")


def check_layouts() -> None:
    inputs = operands(2, 3, 20, 9, 16, 16, 16, torch.float32)
    inputs["a"] = torch.randn(2, 20, 3, 16, device=DEVICE).transpose(1, 2).requires_grad_()
    inputs["v_b"] = torch.randn(2, 3, 16, 9, device=DEVICE).mT.requires_grad_()
    assert_matches_reference("bi_attention", inputs, "triton")


def check_what_lies_in_the_padding() -> None:
    for options in ({}, {"affinity": "tanh", "normalize": None}):
        inputs = operands(2, 1, 40, 9, 16, 24, 20, torch.float32)
        lengths = {"mask_a": torch.tensor([33, 0]), "mask_b": torch.tensor([5, 7])}
        for name, x in inputs.items():
            for element, length in enumerate(lengths[f"mask_{name[-1]}"]):
                x.data[element, :, length:] = torch.nan
        lengths = {name: x.to(DEVICE) for name, x in lengths.items()}
        outs = xf.bi_attention(**inputs, **lengths, **options, backend="triton")
        grads = torch.autograd.grad(outs, list(inputs.values()), [torch.ones_like(out) for out in outs])
        assert all(x.isfinite().all() for x in (*outs, *grads))


CHECKS = interpreter.checks(globals())


@pytest.mark.parametrize("first", range(0, len(CHECKS), 3))
def test_in_the_interpreter(first: int) -> None:
    interpreter.run(__name__, list(CHECKS)[first : first + 3])


def test_import_leaves_triton_alone() -> None:
    interpreter.assert_import_leaves_triton_alone("xmkern.ops.bi_attention.triton")


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 2, 4, 8)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "not on a CUDA GPU" in (triton.refuses(x, x) or "")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton.refuses(x, x) is None
    assert "or more rows" in (triton.refuses(x, x[:, :, :1].expand(3, 2, 2**30, 8)) or "")


if __name__ == "__main__":
    interpreter.main(CHECKS)
