"""Attention against eager PyTorch and torch's own fused attention, at the shapes of models that the field knows."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout, scaled_dot_product_attention

import xmkern.functional as xf
from benchmarks.measure import RESULTS, alternate, write_rows
from xmkern import masks
from xmkern.testing import assert_matches_reference

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PASSES = ("forward", "forward + backward")


@dataclass(frozen=True)
class Case:
    name: str
    B: int
    H: int
    L: int
    S: int
    D: int
    mask: Callable[["Case"], masks.Mask] | None = None
    learned_bias: bool = False
    dropout_p: float = 0.0


def _ragged(case: Case) -> masks.Mask:
    return masks.key_lengths(torch.linspace(case.S // 2, case.S, case.B).long())


CASES = [
    Case("CLIP image", 8, 12, 50, 50, 64),
    Case("CLIP text, causal", 8, 8, 77, 77, 64, lambda case: masks.causal()),
    Case("ViLT", 8, 12, 240, 240, 64),
    Case("UNITER, key lengths", 16, 12, 56, 56, 64, _ragged),
    Case("ViLBERT, text to regions", 16, 8, 36, 20, 128),
    Case("diffusion, cross", 2, 8, 4096, 77, 40),
    Case("diffusion, self", 2, 8, 1024, 1024, 64),
    Case("DALL-E, causal", 1, 16, 1280, 1280, 64, lambda case: masks.causal()),
    Case("DALL-E, axial rows", 1, 16, 1280, 1280, 64, lambda case: masks.axial(256, 32, 32, "row")),
    Case("GIT, prefix", 4, 12, 237, 237, 64, lambda case: masks.prefix(torch.full((case.B,), 197))),
    Case("T5, learned bias", 8, 12, 128, 128, 64, learned_bias=True),
    Case("ViLT, dropout 0.1", 8, 12, 240, 240, 64, dropout_p=0.1),
]


class Contest:
    """One case in one dtype: the inputs, and who computes attention on them."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.case, self.scale = case, case.D**-0.5
        sizes = {"query": case.L, "key": case.S, "value": case.S}
        self.inputs = {
            name: torch.randn(case.B, case.H, n, case.D).to(dtype).requires_grad_() for name, n in sizes.items()
        }
        self.mask = case.mask(case) if case.mask else None
        self.visible = self.mask.to_dense(case.B, case.H, case.L, case.S)[:, :1] if self.mask else None
        self.is_causal = case.name.endswith("causal")
        if case.learned_bias:
            # What a table in float32 gives under autocast: the peers take it in their own dtype.
            self.inputs["bias"] = torch.randn(1, case.H, case.L, case.S).requires_grad_()
        self.hidden = None
        if self.visible is not None:
            self.hidden = torch.zeros(self.visible.shape, dtype=dtype).masked_fill(~self.visible, -math.inf)
        self.grad_out = torch.randn(case.B, case.H, case.L, case.D).to(dtype)

    def check(self) -> None:
        """Raises AssertionError unless our values and gradients are right."""

        def call(backend: str, **inputs: Tensor) -> Tensor:
            torch.manual_seed(0)
            return xf.attention(**inputs, mask=self.mask, dropout_p=self.case.dropout_p, backend=backend)

        assert_matches_reference(partial(call, "cpu"), self.inputs, reference=partial(call, "reference"))

    def xmkern(self) -> Tensor:
        return xf.attention(**self.inputs, mask=self.mask, dropout_p=self.case.dropout_p)

    def sdpa(self) -> Tensor:
        query, key, value = (self.inputs[name] for name in ("query", "key", "value"))
        mask = None if self.is_causal else self.visible
        if "bias" in self.inputs:
            mask = self.inputs["bias"].to(query.dtype)
        return scaled_dot_product_attention(query, key, value, mask, self.case.dropout_p, self.is_causal)

    def eager(self) -> Tensor:
        query, key, value = (self.inputs[name] for name in ("query", "key", "value"))
        scores = query @ key.mT * self.scale
        if self.hidden is not None:
            scores = scores + self.hidden
        if "bias" in self.inputs:
            scores = scores + self.inputs["bias"].to(query.dtype)
        return dropout(scores.softmax(-1), self.case.dropout_p) @ value

    def operations(self, which: str) -> float:
        """Of the products over what is visible: two forward, five backward, two operations a multiply-add."""
        seen = 1.0 if self.visible is None else self.visible.double().mean().item()
        case = self.case
        products = 2 if which == "forward" else 7
        return 2.0 * products * case.B * case.H * case.L * case.S * case.D * seen

    def calls(self, which: str) -> dict[str, Callable[[], Any]]:
        def forward(attend: Callable[[], Tensor]) -> None:
            with torch.no_grad():
                attend()

        def both(attend: Callable[[], Tensor]) -> None:
            torch.autograd.grad(attend(), list(self.inputs.values()), self.grad_out)

        run = forward if which == "forward" else both
        return {name: partial(run, getattr(self, name)) for name in ("xmkern", "sdpa", "eager")}


def product_rate(dtype: torch.dtype, size: int = 1536) -> float:
    """Operations a second of torch's own matrix product, large enough to be at its best."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return 2 * size**3 / alternate({"product": lambda: a @ b}, seconds=1.0)["product"]


def rows() -> list[dict[str, Any]]:
    out = []
    for dtype_name, dtype in DTYPES.items():
        rate = product_rate(dtype)
        for case in CASES:
            contest = Contest(case, dtype)
            contest.check()
            for which in PASSES:
                times = alternate(contest.calls(which), seconds=2.0, least=7)
                best = min(("sdpa", "eager"), key=lambda name: times[name])
                out.append(
                    {
                        "case": case.name,
                        "shape": f"{case.B} {case.H} {case.L} {case.S} {case.D}",
                        "dtype": dtype_name,
                        "pass": which,
                        "xmkern_ms": round(times["xmkern"] * 1e3, 4),
                        "sdpa_ms": round(times["sdpa"] * 1e3, 4),
                        "eager_ms": round(times["eager"] * 1e3, 4),
                        "ratio": round(times[best] / times["xmkern"], 2),
                        "gflops": round(contest.operations(which) / times["xmkern"] / 1e9, 1),
                        "product_gflops": round(rate / 1e9, 1),
                    }
                )
                print(f"{dtype_name:9} {which:19} {case.name:25} {out[-1]['ratio']:.2f}x", flush=True)
    return out


def _mean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _columns(measured: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((r["dtype"], r["pass"]) for r in measured))


def table(measured: list[dict[str, Any]]) -> str:
    """A line a case, a column of ratios for each dtype and pass, and their geometric means."""
    columns = _columns(measured)
    found = {(r["case"], r["dtype"], r["pass"]): r for r in measured}
    lines = [
        "| | B, H, L, S, D | " + " | ".join(f"{dtype}, {which}" for dtype, which in columns) + " |",
        "| --- | --- |" + " ---: |" * len(columns),
    ]
    for case in dict.fromkeys(r["case"] for r in measured):
        chosen = [found[case, *column] for column in columns]
        cells = [f"{float(r['xmkern_ms']):.2f} ms **{float(r['ratio']):.1f}x**" for r in chosen]
        lines.append(f"| {case} | {chosen[0]['shape'].replace(' ', ', ')} | " + " | ".join(cells) + " |")
    means = [_mean([float(r["ratio"]) for r in measured if (r["dtype"], r["pass"]) == c]) for c in columns]
    lines.append("| geometric mean | | " + " | ".join(f"**{mean:.1f}x**" for mean in means) + " |")
    return "\n".join(lines)


def plot(measured: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(r["case"] for r in measured))
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4.2), sharey=True, layout="constrained")
    colours = {"forward": "#a9d6e5", "forward + backward": "#2a6f97"}
    for each, dtype in zip(axes, DTYPES, strict=True):
        for offset, which in enumerate(PASSES):
            ratios = [float(r["ratio"]) for r in measured if (r["dtype"], r["pass"]) == (dtype, which)]
            places = [i + 0.4 * offset for i in range(len(names))]
            bars = each.barh(places, ratios, 0.38, color=colours[which], label=which)
            each.bar_label(bars, [f"{r:.1f}" for r in ratios], padding=2, fontsize=7)
        each.set_title(dtype, fontsize=10, loc="left")
        each.axvline(1, color="black", linewidth=0.8, linestyle=":")
        each.spines[["top", "right"]].set_visible(False)
        each.margins(x=0.12)
    axes[0].set_yticks([i + 0.2 for i in range(len(names))], names, fontsize=8)
    axes[0].invert_yaxis()
    axes[1].legend(frameon=False, fontsize=8, loc="upper right")
    figure.supxlabel("times faster than the better of eager PyTorch and torch's fused attention", fontsize=9)
    figure.savefig(path, dpi=150)


def main() -> None:
    measured = rows()
    print(table(measured))
    path = write_rows("attention", measured)
    plot(measured, path.with_suffix(".png"))
    print(f"\nrows in {path.relative_to(RESULTS.parent.parent)}, plot beside them")
