"""Products of linear layers, output and gradients, against torch's own and oneDNN's, in float32."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import xmkern.functional as xf
from benchmarks.measure import RESULTS, alternate, write_rows
from xmkern.ops.linear import onednn
from xmkern.testing import assert_matches_reference

CALLED = ("xmkern", "torch", "onednn")
PASSES = ("forward", "forward + backward")


@dataclass(frozen=True)
class Case:
    name: str
    rows: int
    inner: int
    outer: int


CASES = [
    Case("ViT-B, qkv", 8 * 197, 768, 2304),
    Case("ViT-B, up", 8 * 197, 768, 3072),
    Case("ViT-B, down", 8 * 197, 3072, 768),
    Case("CLIP text, up", 8 * 77, 512, 2048),
    Case("ViLBERT, words", 16 * 20, 768, 3072),
    Case("ViLBERT, regions", 16 * 36, 1024, 1024),
    Case("projection of a batch", 256, 768, 512),
]


class Contest:
    """One layer: the inputs, and who multiplies them."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.case = case
        self.inputs = [torch.randn(size) for size in ((case.rows, case.inner), (case.outer, case.inner), case.outer)]
        self.cotangent = torch.randn(case.rows, case.outer)

    def check(self) -> None:
        """Raises AssertionError unless our values and gradients are right, and the peer computes the same."""
        inputs = dict(zip(("x", "weight", "bias"), (x.clone().requires_grad_() for x in self.inputs), strict=True))
        assert_matches_reference("linear", inputs, backend="cpu")
        torch.testing.assert_close(onednn.linear(*self.inputs), F.linear(*self.inputs), rtol=1e-4, atol=1e-3)

    def calls(self, which: str) -> dict[str, Callable[[], Any]]:
        ours = partial(xf.linear, backend="cpu")
        if which == "forward":
            return {
                name: partial(call, *self.inputs)
                for name, call in (("xmkern", ours), ("torch", F.linear), ("onednn", onednn.linear))
            }
        graded = [x.clone().requires_grad_() for x in self.inputs]

        def run(call: Callable[..., Tensor]) -> None:
            torch.autograd.grad(call(*graded), graded, self.cotangent)

        return {"xmkern": partial(run, ours), "torch": partial(run, F.linear)}

    def flops(self, which: str) -> float:
        return (2.0 if which == "forward" else 6.0) * self.case.rows * self.case.inner * self.case.outer


def rows() -> list[dict[str, Any]]:
    out = []
    for case in CASES:
        contest = Contest(case)
        contest.check()
        for which in PASSES:
            times = alternate(contest.calls(which), seconds=3.0)
            peer = min(seconds for name, seconds in times.items() if name != "xmkern")
            out.append(
                {
                    "case": case.name,
                    "shape": f"{case.rows} {case.inner} {case.outer}",
                    "dtype": "float32",
                    "pass": which,
                    **{f"{name}_ms": round(1e3 * times[name], 3) if name in times else "" for name in CALLED},
                    "ratio": round(times["torch"] / times["xmkern"], 2),
                    "ratio_to_better": round(peer / times["xmkern"], 2),
                    **{
                        f"{name}_gflops": round(contest.flops(which) / times[name] / 1e9) if name in times else ""
                        for name in CALLED
                    },
                }
            )
            print(f"{case.name:24} {which:18} {out[-1]['ratio']:.2f}x {out[-1]['ratio_to_better']:.2f}x", flush=True)
    return out


def table(measured: list[dict[str, Any]]) -> str:
    """A line a layer and pass; the ratio is to torch."""
    lines = ["| | rows, inner, outer | pass | xmkern | torch | oneDNN |", "| --- | --- | --- | ---: | ---: | ---: |"]
    for r in measured:
        rates = [f"{r[f'{name}_gflops']} GFLOP/s" if r[f"{name}_gflops"] else "" for name in CALLED]
        rates[1] += f" **{float(r['ratio']):.2f}x**"
        lines.append(f"| {r['case']} | {r['shape'].replace(' ', ', ')} | {r['pass']} | {' | '.join(rates)} |")
    return "\n".join(lines)


def main() -> None:
    measured = rows()
    print(table(measured))
    print(f"\nrows in {write_rows('linear', measured).relative_to(RESULTS.parent.parent)}")
