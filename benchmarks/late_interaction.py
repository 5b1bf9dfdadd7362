"""Token-wise late interaction against eager PyTorch: an einsum over all tokens, the maximum, the mean."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

import xmkern.functional as xf
from benchmarks.attention import DTYPES, product_rate
from benchmarks.measure import RESULTS, alternate, write_rows
from xmkern.testing import assert_matches_reference


@dataclass(frozen=True)
class Case:
    name: str
    B: int
    R: int
    T: int
    D: int
    loss: bool = False  # InfoNCE of the scores, both ways


CASES = [
    Case("FILIP, 7 x 7 patches", 64, 49, 32, 256),
    Case("ColBERT, queries and passages", 32, 32, 180, 128),
    Case("FILIP, 14 x 14 patches", 32, 196, 77, 256),
    Case("InfoNCE of 7 x 7 patches", 64, 49, 32, 256, loss=True),
]


class Contest:
    """One case in one dtype: the inputs, and who computes its scores or loss."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.case = case
        self.x, self.y = (
            normalize(torch.randn(case.B, tokens, case.D), dim=2).to(dtype).requires_grad_()
            for tokens in (case.R, case.T)
        )

    def check(self) -> None:
        """Raises AssertionError unless our values and gradients are right."""
        few = {name: x[:3].detach().requires_grad_() for name, x in (("x_tokens", self.x), ("y_tokens", self.y))}
        assert_matches_reference("max_similarity", few, backend="cpu")

    def xmkern(self) -> Tensor:
        if self.case.loss:
            return xf.late_interaction_info_nce(self.x, self.y, 20.0)
        return xf.max_similarity(self.x, self.y).sum()

    def eager(self) -> Tensor:
        similarities = torch.einsum("brd,ntd->bnrt", self.x, self.y)
        scores = similarities.amax(3).mean(2)
        if not self.case.loss:
            return scores.sum()
        labels = torch.arange(self.case.B)
        back = similarities.amax(2).mean(2)
        return (cross_entropy(20 * scores, labels) + cross_entropy(20 * back.T, labels)) / 2

    def calls(self) -> dict[str, Callable[[], Any]]:
        def run(call: Callable[[], Tensor]) -> None:
            torch.autograd.grad(call(), (self.x, self.y))

        return {name: partial(run, getattr(self, name)) for name in ("xmkern", "eager")}


def rows() -> list[dict[str, Any]]:
    out = []
    for dtype_name, dtype in DTYPES.items():
        rate = product_rate(dtype)
        for case in CASES:
            contest = Contest(case, dtype)
            contest.check()
            times = alternate(contest.calls(), seconds=3.0)
            product = 2.0 * case.B**2 * case.R * case.T * case.D
            out.append(
                {
                    "case": case.name,
                    "shape": f"{case.B} {case.R} {case.T} {case.D}",
                    "dtype": dtype_name,
                    "pass": "forward + backward",
                    **{f"{name}_ms": round(1e3 * seconds, 3) for name, seconds in times.items()},
                    "ratio": round(times["eager"] / times["xmkern"], 2),
                    "one_product_ms": round(1e3 * product / rate, 3),  # of all tokens, at the rate of torch's own
                }
            )
            print(f"{dtype_name:9} {case.name:30} {out[-1]['ratio']:.2f}x", flush=True)
    return out


def table(measured: list[dict[str, Any]]) -> str:
    """A line a case, a column a dtype: our time, and how many times it goes into eager PyTorch's."""
    lines = ["| | B, R, T, D | " + " | ".join(DTYPES) + " |", "| --- | --- |" + " ---: |" * len(DTYPES)]
    found = {(r["case"], r["dtype"]): r for r in measured}
    for case in dict.fromkeys(r["case"] for r in measured):
        chosen = [found[case, dtype] for dtype in DTYPES]
        cells = [f"{float(r['xmkern_ms']):.1f} ms **{float(r['ratio']):.1f}x**" for r in chosen]
        lines.append(f"| {case} | {chosen[0]['shape'].replace(' ', ', ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    measured = rows()
    print(table(measured))
    print(f"\nrows in {write_rows('late_interaction', measured).relative_to(RESULTS.parent.parent)}")
