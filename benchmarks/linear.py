"""Products of linear layers, output and gradients, against torch's own and oneDNN's, wherever ours serve by default."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import xmkern.functional as xf
from benchmarks.measure import RESULTS, alternate, write_rows
from xmkern._functional.linear import is_faster
from xmkern.ops.linear import onednn
from xmkern.testing import assert_matches_reference

CALLED = ("xmkern", "torch", "onednn")
PASSES = ("forward", "forward + backward")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# A larger layer's gradients take torch ten seconds where it has only loops.
MOST_ROWS_OF_LOOPS = 700
# With so few rows one decodes: a step takes every layer once, whose weights no cache holds.
FEW_ROWS, BYTES_OF_WEIGHTS = 8, 128 << 20


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
    Case("decoding, a row", 1, 768, 3072),
    Case("decoding, five beams", 5, 768, 3072),
    Case("five beams, vocabulary", 5, 768, 30522),
]


class Contest:
    """One layer: the inputs, and who multiplies them."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.case = case
        sizes = (case.rows, case.inner), (case.outer, case.inner), case.outer
        self.inputs = [torch.randn(size).to(dtype) for size in sizes]
        weight = self.inputs[1]
        layers = max(1, BYTES_OF_WEIGHTS // weight.nbytes) if case.rows <= FEW_ROWS else 1
        self.weights = [weight] + [weight.clone() for _ in range(layers - 1)]
        self.cotangent = torch.randn(case.rows, case.outer).to(dtype)

    def is_ours(self, which: str) -> bool:
        """Whether a caller that names no backend gets our kernel. What rows there are when decoding has no gradient."""
        x, weight, _ = self.inputs
        with torch.set_grad_enabled(which != "forward"):
            few = self.case.rows <= FEW_ROWS
            return (
                is_faster(x, weight)
                and (few or onednn.refuses(x, weight) is not None)
                and (not onednn.torch_loops(x.dtype) or self.case.rows <= MOST_ROWS_OF_LOOPS)
                and (which == "forward" or not few)
            )

    def check(self) -> None:
        """Raises AssertionError unless our values and gradients are right, and the peer computes the same."""
        inputs = dict(zip(("x", "weight", "bias"), (x.clone().requires_grad_() for x in self.inputs), strict=True))
        assert_matches_reference("linear", inputs, backend="cpu")
        if self.inputs[0].dtype == torch.float32:
            torch.testing.assert_close(onednn.linear(*self.inputs), F.linear(*self.inputs), rtol=1e-4, atol=1e-3)

    def calls(self, which: str) -> dict[str, Callable[[], Any]]:
        if which == "forward":
            calls = {"xmkern": xf.linear, "torch": F.linear}
            if self.inputs[0].dtype == torch.float32:
                calls["onednn"] = onednn.linear
            return {name: partial(self.forward, call) for name, call in calls.items()}
        graded = [x.clone().requires_grad_() for x in self.inputs]

        def run(call: Callable[..., Tensor]) -> None:
            torch.autograd.grad(call(*graded), graded, self.cotangent)

        return {"xmkern": partial(run, xf.linear), "torch": partial(run, F.linear)}

    @torch.no_grad()
    def forward(self, call: Callable[..., Tensor]) -> None:
        x, _, bias = self.inputs
        for weight in self.weights:
            call(x, weight, bias)

    def flops(self, which: str) -> float:
        return (2.0 if which == "forward" else 6.0) * self.case.rows * self.case.inner * self.case.outer


def rows() -> list[dict[str, Any]]:
    out = []
    for dtype, case in itertools.product(DTYPES, CASES):
        contest = Contest(case, dtype)
        passes = [which for which in PASSES if contest.is_ours(which)]
        if passes:
            contest.check()
        for which in passes:
            layers = len(contest.weights) if which == "forward" else 1
            calls = contest.calls(which)
            times = {name: each / layers for name, each in alternate(calls, seconds=3.0).items()}
            peer = min(seconds for name, seconds in times.items() if name != "xmkern")
            out.append(
                {
                    "case": case.name,
                    "shape": f"{case.rows} {case.inner} {case.outer}",
                    "dtype": str(dtype).removeprefix("torch."),
                    "pass": which,
                    **{f"{name}_ms": round(1e3 * times[name], 3) if name in times else "" for name in CALLED},
                    "ratio": round(times["torch"] / times["xmkern"], 2),
                    "ratio_to_better": round(peer / times["xmkern"], 2),
                    **{
                        f"{name}_gflops": round(contest.flops(which) / times[name] / 1e9, 1) if name in times else ""
                        for name in CALLED
                    },
                }
            )
            r = out[-1]
            print(f"{case.name:24} {r['dtype']:8} {which:18} {r['ratio']:.2f}x {r['ratio_to_better']:.2f}x", flush=True)
    return out


def table(measured: list[dict[str, Any]]) -> str:
    """A line a layer, dtype and pass; the ratio is to torch."""
    lines = [
        "| | rows, inner, outer | dtype | pass | xmkern | torch | oneDNN |",
        "| --- | --- | --- | --- | ---: | ---: | ---: |",
    ]
    for r in measured:
        rates = [f"{float(rate):.3g} GFLOP/s" if (rate := r[f"{name}_gflops"]) else "" for name in CALLED]
        rates[1] += f" **{float(r['ratio']):.2f}x**"
        lines.append(
            f"| {r['case']} | {r['shape'].replace(' ', ', ')} | {r['dtype']} | {r['pass']} | {' | '.join(rates)} |"
        )
    return "\n".join(lines)


def main() -> None:
    measured = rows()
    print(table(measured))
    print(f"\nrows in {write_rows('linear', measured).relative_to(RESULTS.parent.parent)}")
