"""The Triton launchers of contrastive losses against the reference, values and gradients, in Triton's interpreter.

See tests/interpreter.py.
"""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from tests import interpreter
from tests.interpreter import DEVICE, THOROUGH
from xmkern.ops import gpu
from xmkern.ops.contrastive import Pairs, reduce_similarities, triton
from xmkern.testing import assert_matches_reference

pytest.importorskip("triton")

JUMPS = ("hinge", "margin", "maximum")  # kinds whose results, or gradients, jump with the logits


def ids(count: int, classes: int, first: int = 0) -> Tensor:
    return (torch.arange(first, first + count) * 2**33 % (classes * 2**33)) - 2**40  # beyond 32 bits


def some_pairs(B: int, N: int) -> Pairs:
    """Several positives in most rows, none in some, and hidden pairs."""
    return Pairs(ids(B, 19), ids(N, 23, 7), ids(B, 7), ids(N, 7, 3))


def assert_right(
    kind: str = "logsumexp",
    B: int = 70,
    N: int = 90,
    D: int = 24,
    dtype: torch.dtype = torch.float32,
    pairs: Pairs | None = None,
    columns: bool = True,
    scale: float = 3.0,
    **given: Tensor,
) -> None:
    """All reductions and all gradients. given: x, y or their scales, if they are to be special."""

    def draw(count: int) -> Tensor:
        if kind in JUMPS:  # exact in any order and every dtype
            return torch.randint(-2, 3, (count, D)).float()
        return torch.randn(count, D) / D**0.5

    def scales(count: int) -> Tensor:
        return torch.randint(1, 3, (count,)).float() if kind in JUMPS else torch.rand(count) + 0.5

    inputs: dict[str, Any] = {
        "x": draw(B).to(dtype),
        "y": draw(N).to(dtype),
        "x_scale": scales(B) * scale,
        "y_scale": scales(N),
        "bias": torch.tensor(-0.5),
    }
    inputs = {name: x.to(DEVICE).requires_grad_(kind != "maximum") for name, x in (inputs | given).items()}
    pairs = some_pairs(B, N) if pairs is None else pairs
    if kind in ("hinge", "margin"):
        pairs = pairs._replace(
            x_offset=torch.randint(-40, 4, (B,)).float(), y_offset=torch.randint(-40, 4, (N,)).float()
        )
    pairs = Pairs(*(None if x is None else x.to(DEVICE) for x in pairs))

    def call(backend: str, **inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(reduce_similarities(**inputs, pairs=pairs, kind=kind, columns=columns, backend=backend))

    assert_matches_reference(
        lambda **inputs: call("triton", **inputs), inputs, reference=lambda **inputs: call("reference", **inputs)
    )


def check_sums_of_exponentials() -> None:
    assert_right("logsumexp")
    assert_right("mil")


def check_sums_of_terms() -> None:
    assert_right("softplus")


def check_margins() -> None:
    assert_right("hinge")
    assert_right("margin")


def check_greatest() -> None:
    """Of equal ones the first; in rows without a rival, nowhere."""
    with small_tiles():
        assert_right("maximum", D=2)
    everyone = Pairs(torch.zeros(30, dtype=torch.int64), torch.zeros(20, dtype=torch.int64))
    assert_right("maximum", 30, 20, pairs=everyone)


def check_kinds_of_pairs() -> None:
    relevance = torch.rand(90, 70) < 0.1
    relevance[:, 5] = False
    assert_right("softplus", pairs=Pairs(relevance=relevance.mT))
    assert_right("mil", pairs=some_pairs(70, 90)._replace(x_ids=None, y_ids=None, relevance=relevance.mT))
    assert_right("logsumexp", pairs=Pairs(ids(70, 70), ids(90, 90)))
    assert_right("logsumexp", pairs=Pairs())


def check_shapes() -> None:
    assert_right(B=1, N=1, D=1)
    assert_right(B=1, N=130, D=5)
    assert_right("softplus", B=130, N=3, D=70, columns=False)
    for empty in ({"B": 0}, {"N": 0}, {"D": 0}):
        assert_right(**empty)  # type: ignore[arg-type]


def check_dtypes() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        assert_right(dtype=dtype, D=100)


def check_layouts() -> None:
    wide = torch.randn(70, 2, 40)
    assert_right(D=40, x=wide[:, 1], y=torch.randn(40, 90).mT, y_scale=torch.tensor(2.0).expand(90))
    assert_right(x=torch.randn(1, 24).expand(70, 24), x_scale=torch.rand(70, 3)[:, 1])


def small_tiles() -> Any:
    """Such that a small matrix has many: several in a span, several spans and strips."""
    tiles = triton.Tiles(16, 32, 16, 4, 2)
    return patch.multiple(triton, _tiles=lambda *args: tiles, _PROGRAMS=6, _STRIP=48)


def check_many_tiles() -> None:
    with small_tiles():
        assert_right("logsumexp", N=250, D=40)
        if THOROUGH:
            for kind in ("mil", "softplus", "hinge", "margin"):
                assert_right(kind, N=250, D=40)


def check_rows_of_nothing() -> None:
    """All hidden, or without a positive: no NaN, no gradient."""
    hidden = Pairs(x_groups=torch.arange(40) // 20, y_groups=torch.zeros(30, dtype=torch.int64))
    for kind in ("logsumexp", "mil", "softplus"):
        assert_right(kind, 40, 30, pairs=hidden)


def check_large_scales() -> None:
    """Of coarse numbers: their products are exact in any order, and no machine's rounding is luckier than another's."""
    x, y = (torch.randint(-4, 5, (count, 40)) / 16 for count in (130, 150))
    for kind in ("logsumexp", "mil", "softplus"):
        assert_right(kind, 130, 150, 40, scale=1000.0, x=x, y=y)


def check_nan_stays_in_its_row() -> None:
    x, y = torch.randn(40, 16, device=DEVICE), torch.randn(50, 16, device=DEVICE)
    x[3, 5] = torch.nan
    ones = torch.ones(50, device=DEVICE)
    pairs = Pairs(*(side.to(DEVICE) for side in (ids(40, 40), ids(50, 50))), x_offset=ones[:40], y_offset=ones)
    wrong = torch.arange(40) == 3
    for kind in ("logsumexp", "mil", "softplus", "margin", "hinge", "maximum"):
        results = reduce_similarities(
            x, y, ones[:40], ones, ones[0], pairs, kind=kind, columns=True, backend="triton"
        )  # fmt: skip
        assert torch.equal(results.value.isnan().cpu(), wrong), kind
        negative = torch.arange(50) != 3 if kind in ("hinge", "maximum") else torch.ones(50, dtype=torch.bool)
        assert torch.equal(results.column_value.isnan().cpu(), negative), kind


def check_losses() -> None:
    """The way from the public calls to the kernels."""
    sides = [(torch.randn(60, 20) / 4).to(DEVICE).requires_grad_() for _ in range(2)]
    inputs = {"x": sides[0], "y": sides[1], "logit_scale": torch.tensor(9.0, device=DEVICE, requires_grad=True)}
    assert_matches_reference("info_nce", {**inputs, "normalize": True}, "triton")
    assert_matches_reference("sigmoid_contrastive", {**inputs, "logit_bias": -5.0}, "triton")


CHECKS = interpreter.checks(globals())


@pytest.mark.parametrize("first", range(0, len(CHECKS), 7))
def test_in_the_interpreter(first: int) -> None:
    interpreter.run(__name__, list(CHECKS)[first : first + 7])


def test_import_leaves_triton_alone() -> None:
    interpreter.assert_import_leaves_triton_alone("xmkern.ops.contrastive.triton")


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 8)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "not on a CUDA GPU" in (triton.refuses(x, x) or "")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton.refuses(x, x) is None
    assert "not torch.float64" in (triton.refuses(x.double(), x.double()) or "")
    assert "or more rows or columns" in (triton.refuses(x, x[:1].expand(2**30, 8)) or "")
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    assert "not installed" in (triton.refuses(x, x) or "")


if __name__ == "__main__":
    interpreter.main(CHECKS)
