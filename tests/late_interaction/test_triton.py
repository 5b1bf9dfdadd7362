"""The Triton launchers of late interaction against the reference, values and gradients, in Triton's interpreter.

See tests/interpreter.py.
"""

from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from tests import interpreter
from tests.interpreter import DEVICE
from xmkern.ops import gpu
from xmkern.ops.late_interaction import triton
from xmkern.ops.late_interaction.op import max_similarity, max_similarity_forward
from xmkern.testing import assert_matches_reference

pytest.importorskip("triton")


def assert_right(
    B: int = 5,
    N: int = 7,
    R: int = 9,
    T: int = 20,
    D: int = 24,
    dtype: torch.dtype = torch.float32,
    masked: bool = True,
    mean: bool = True,
    both: bool = True,
    x: Tensor | None = None,
    y: Tensor | None = None,
) -> None:
    """Scores, winners and gradients. Of whole numbers, so that no rounding decides between two similarities."""
    drawn = [torch.randint(-3, 4, shape).to(dtype) for shape in ((B, R, D), (N, T, D))]
    x, y = ((a if b is None else b).to(DEVICE).requires_grad_() for a, b in zip(drawn, (x, y), strict=True))
    x_mask, y_mask = ((torch.rand(len(each), each.shape[1]) < 0.7).to(DEVICE) for each in (x, y))
    x_mask[-1:] = y_mask[:1] = False  # samples without tokens
    masks = (x_mask, y_mask) if masked else (None, None)

    def call(x: Tensor, y: Tensor, backend: str) -> tuple[Tensor, ...]:
        # The scores with their gradient; the winners, which are not returned, from the operator itself.
        winners = max_similarity_forward(x.detach(), y.detach(), *masks, mean, both, backend=backend)[2:]
        return *max_similarity(x, y, *masks, mean=mean, both=both, backend=backend), *winners

    assert_matches_reference(
        lambda x, y: call(x, y, "triton"), {"x": x, "y": y}, reference=lambda x, y: call(x, y, "reference")
    )


def check_shapes() -> None:
    assert_right()
    assert_right(B=1, N=1, R=1, T=1, D=1, masked=False)
    assert_right(B=2, N=9, R=3, T=5, D=33, masked=False, mean=False)
    for empty in ({"B": 0}, {"N": 0}, {"R": 0}, {"T": 0}):
        assert_right(**empty)


def check_one_side() -> None:
    assert_right(both=False, mean=False)
    assert_right(both=False, masked=False)


def check_tokens_of_several_tiles() -> None:
    assert_right(B=2, N=2, R=150, T=70)
    assert_right(B=2, N=3, R=20, T=300, D=5)  # places beyond 8 bits


def check_samples_of_several_tiles() -> None:
    for programs in (1, 10):
        with patch.object(triton, "_PROGRAMS", programs):
            assert_right(B=2, N=18, R=9, T=12)


def check_dtypes() -> None:
    assert_right(B=3, N=4, dtype=torch.bfloat16, D=70)
    assert_right(B=3, N=4, dtype=torch.float16, masked=False, R=40)


def check_layouts() -> None:
    x = torch.randint(-3, 4, (9, 5, 2, 24)).float()[:, :, 1].transpose(0, 1)  # tokens outside
    y = torch.randint(-3, 4, (7, 24, 20)).float().mT
    assert_right(x=x[:3], y=y[:3])
    assert_right(N=2, x=x[:1].expand(5, 9, 24))


def check_nan_and_what_hides_it() -> None:
    x, y = torch.randn(3, 5, 16, device=DEVICE), torch.randn(4, 6, 16, device=DEVICE)
    x[1, 2], y[2, 3] = torch.nan, torch.nan
    wrong = torch.zeros(3, 4, dtype=torch.bool)
    wrong[1] = wrong[:, 2] = True
    for scores in max_similarity(x, y, both=True, backend="triton"):
        assert torch.equal(scores.isnan().cpu(), wrong)
    masks = [~each.isnan().any(2) for each in (x, y)]
    sides = [each.requires_grad_() for each in (x, y)]
    scores = max_similarity(*sides, *masks, both=True, backend="triton")
    grads = torch.autograd.grad(sum(each.sum() for each in scores), sides)
    assert all(each.isfinite().all() for each in (*scores, *grads))


def check_similarities_of_minus_infinity() -> None:
    x, y = torch.full((1, 2, 1), -torch.inf, device=DEVICE), torch.ones(1, 3, 1, device=DEVICE)
    mask = torch.tensor([[False, True, True]], device=DEVICE)
    scores, _, winners, _ = max_similarity_forward(x, y, None, mask, True, False, backend="triton")
    assert scores.item() == -torch.inf
    assert winners.tolist() == [[[1, 1]]]


def check_loss() -> None:
    """The way from the public call to the kernels."""
    sides = [(torch.randn(6, n, 20) / 4).to(DEVICE).requires_grad_() for n in (5, 8)]
    inputs = {"x_tokens": sides[0], "y_tokens": sides[1], "logit_scale": torch.tensor(9.0, device=DEVICE)}
    for recompute in (False, True):
        assert_matches_reference("late_interaction_info_nce", {**inputs, "recompute": recompute}, "triton")


CHECKS = interpreter.checks(globals())


@pytest.mark.parametrize("first", range(0, len(CHECKS), 5))
def test_in_the_interpreter(first: int) -> None:
    interpreter.run(__name__, list(CHECKS)[first : first + 5])


def test_import_leaves_triton_alone() -> None:
    interpreter.assert_import_leaves_triton_alone("xmkern.ops.late_interaction.triton")


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 4, 8)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "not on a CUDA GPU" in (triton.refuses(x, x) or "")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton.refuses(x, x) is None
    assert "not torch.float64" in (triton.refuses(x.double(), x.double()) or "")
    assert "or more samples or tokens" in (triton.refuses(x, x[:, :1].expand(3, 2**30, 8)) or "")
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    assert "not installed" in (triton.refuses(x, x) or "")


if __name__ == "__main__":
    interpreter.main(CHECKS)
