"""The Triton launchers against the reference, values and gradients, in Triton's interpreter.

See tests/interpreter.py.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests import interpreter
from tests.interpreter import DEVICE
from xmkern import masks
from xmkern.biases import RelativeBias
from xmkern.ops.cross_attention import triton
from xmkern.testing import assert_matches_reference

pytest.importorskip("triton")


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype).requires_grad_()


def assert_right(call: str, **inputs: Any) -> None:
    assert_matches_reference(call, inputs, backend="triton")


def check_co_attention() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (2, 2, 36, 16), (2, 2, 70, 16)
        streams = dict(zip(("q_a", "k_a", "v_a"), (draw(*a, dtype=dtype) for _ in range(3)), strict=True))
        streams |= dict(zip(("q_b", "k_b", "v_b"), (draw(*b, dtype=dtype) for _ in range(3)), strict=True))
        lengths = torch.tensor([70, 33], device=DEVICE)
        assert_right("co_attention", **streams, mask_a=masks.key_lengths(lengths), dropout_p=0.2)


def check_sources() -> None:
    lengths = torch.tensor([20, 7], device=DEVICE)
    for dtype in (torch.float32, torch.bfloat16):
        keys, values = ([draw(2, 1, n, width, dtype=dtype) for n in (20, 70, 0)] for width in (16, 24))
        options = [(masks.key_lengths(lengths),), (masks.causal(-3), RelativeBias(draw(109, 2))), ()]
        sources = [(*kv, *rest) for *kv, rest in zip(keys, values, options, strict=True)]
        assert_right("cross_attention", query=draw(2, 2, 40, 16, dtype=dtype), sources=sources, return_lse=True)


def check_dropout() -> None:
    sources = [(draw(1, 1, n, 16), draw(1, 1, n, 16)) for n in (70, 30)]
    assert_right("cross_attention", query=draw(1, 2, 20, 16), sources=sources, dropout_p=0.3, return_lse=True)


def check_rows_that_see_nothing() -> None:
    """Not in one source, not in any; and many keys for few queries, cut among programs."""
    sources = [(draw(1, 1, n, 16), draw(1, 1, n, 16), masks.causal(-i)) for i, n in ((3, 70), (6, 30))]
    assert_right("cross_attention", query=draw(1, 1, 20, 16), sources=sources, return_lse=True)
    with torch.no_grad():
        few = [tuple(x.detach() for x in (draw(1, 1, n, 16), draw(1, 1, n, 16))) for n in (1200, 1300)]
        assert_right("cross_attention", query=draw(1, 1, 1, 16).detach(), sources=few, scale=-0.3, return_lse=True)


CHECKS = interpreter.checks(globals())


@pytest.mark.parametrize("name", CHECKS)
def test_in_the_interpreter(name: str) -> None:
    interpreter.run(__name__, [name])


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    x, wide = torch.randn(1, 1, 3, 8), torch.randn(1, 1, 3, 257)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton.refuses([x, x], [x, x, x], [x, x, x], [2, 1]) is None
    assert "up to 256 numbers" in (triton.refuses([x, x], [x, x, x], [x, x, wide], [2, 1]) or "")


if __name__ == "__main__":
    interpreter.main(CHECKS)
