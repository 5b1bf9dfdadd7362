"""Alignment by optimal transport against the iterations of UNITER and ViLT in eager PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

import xmkern.functional as xf
from benchmarks.measure import RESULTS, alternate, write_rows
from xmkern.ops.transport import transport_plan
from xmkern.testing import assert_matches_reference

BETA, ITERATIONS = 0.5, 50
PASSES = ("plan", "forward + backward")


@dataclass(frozen=True)
class Case:
    name: str
    B: int
    R: int
    T: int
    D: int


CASES = [Case("UNITER", 96, 20, 36, 768), Case("UNITER, 100 regions", 96, 60, 100, 768), Case("ViLT", 64, 40, 240, 768)]


def plan(cost: Tensor, x_pad: Tensor, y_pad: Tensor) -> Tensor:
    """The plan [B, T, R] as UNITER's code computes it; cost [B, R, T], True in the masks: padding."""
    hidden = (x_pad[:, :, None] | y_pad[:, None]).mT
    x_count, y_count = ((~pad).sum(1).to(cost)[:, None, None] for pad in (x_pad, y_pad))
    kernel = (-cost.mT / BETA).exp().masked_fill(hidden, 0)
    plan, sigma = torch.ones_like(kernel).masked_fill(hidden, 0), (~x_pad).to(cost)[:, :, None] / x_count
    x_far, y_far = (1e4 * pad[:, None] for pad in (x_pad, y_pad))
    for _ in range(ITERATIONS):
        product = kernel * plan
        delta = 1 / (y_count * (product @ sigma).mT + y_far)
        sigma = (1 / (x_count * (delta @ product) + x_far)).mT
        plan = delta.mT * product * sigma.mT
    return plan


def eager(x: Tensor, y: Tensor, x_pad: Tensor, y_pad: Tensor) -> Tensor:
    """The cost of the plan, as UNITER's code computes it: x [B, R, D], y [B, T, D]."""
    cost = 1 - normalize(x, dim=-1, eps=1e-5) @ normalize(y, dim=-1, eps=1e-5).mT
    cost = cost.masked_fill(x_pad[:, :, None] | y_pad[:, None], 0)
    with torch.no_grad():
        moved = plan(cost, x_pad, y_pad)
    return (cost * moved.mT).sum((1, 2))


class Contest:
    """One case: the inputs, and who aligns them."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.x, self.y = (torch.randn(case.B, n, case.D, requires_grad=True) for n in (case.R, case.T))
        self.x_mask, self.y_mask = (
            torch.arange(n) < torch.linspace(n // 2, n, case.B).long()[:, None] for n in (case.R, case.T)
        )

    def check(self) -> None:
        """Raises AssertionError unless our values and gradients are right, and the peer computes the same."""
        inputs = {"x_tokens": self.x, "y_tokens": self.y, "x_mask": self.x_mask, "y_mask": self.y_mask}
        assert_matches_reference("optimal_transport_alignment", inputs, backend="cpu")
        torch.testing.assert_close(self.xmkern(), self.eager(), rtol=1e-4, atol=1e-5)

    def xmkern(self) -> Tensor:
        return xf.optimal_transport_alignment(self.x, self.y, self.x_mask, self.y_mask)

    def eager(self) -> Tensor:
        return eager(self.x, self.y, ~self.x_mask, ~self.y_mask)

    def calls(self, which: str) -> dict[str, Callable[[], Any]]:
        if which == "plan":
            cost = torch.rand(len(self.x), self.y.shape[1], self.x.shape[1])
            return {
                "xmkern": lambda: transport_plan(cost, self.y_mask, self.x_mask, BETA, ITERATIONS, 1),
                "eager": lambda: plan(cost.mT, ~self.x_mask, ~self.y_mask),
            }

        def run(call: Callable[[], Tensor]) -> None:
            torch.autograd.grad(call().sum(), (self.x, self.y))

        return {"xmkern": partial(run, self.xmkern), "eager": partial(run, self.eager)}


def rows() -> list[dict[str, Any]]:
    out = []
    for case in CASES:
        contest = Contest(case)
        contest.check()
        for which in PASSES:
            times = alternate(contest.calls(which), seconds=2.0)
            out.append(
                {
                    "case": case.name,
                    "shape": f"{case.B} {case.R} {case.T} {case.D}",
                    "dtype": "float32",
                    "pass": which,
                    **{f"{name}_ms": round(1e3 * seconds, 3) for name, seconds in times.items()},
                    "ratio": round(times["eager"] / times["xmkern"], 2),
                }
            )
            print(f"{case.name:20} {which:18} {out[-1]['ratio']:.2f}x", flush=True)
    return out


def table(measured: list[dict[str, Any]]) -> str:
    """A line a case and pass."""
    lines = ["| | B, R, T, D | pass | xmkern | eager |", "| --- | --- | --- | ---: | ---: |"]
    for r in measured:
        shape, ours, theirs = r["shape"].replace(" ", ", "), float(r["xmkern_ms"]), float(r["eager_ms"])
        lines.append(
            f"| {r['case']} | {shape} | {r['pass']} | {ours:.1f} ms | {theirs:.1f} ms **{theirs / ours:.1f}x** |"
        )
    return "\n".join(lines)


def main() -> None:
    measured = rows()
    print(table(measured))
    print(f"\nrows in {write_rows('transport', measured).relative_to(RESULTS.parent.parent)}")
