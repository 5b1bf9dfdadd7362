"""DAMSM's loss against the loop over captions that AttnGAN and its descendants have, and against all pairs at once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import xmkern.functional as xf
from benchmarks.attention import DTYPES, product_rate
from benchmarks.measure import RESULTS, alternate, write_rows
from xmkern.testing import assert_matches_reference

GAMMAS = (4.0, 5.0, 10.0)


@dataclass(frozen=True)
class Case:
    name: str
    B: int
    T: int
    R: int
    D: int


CASES = [
    Case("AttnGAN, birds", 48, 18, 289, 256),
    Case("AttnGAN, COCO", 48, 15, 289, 256),
    Case("grid of 7 x 7", 64, 20, 49, 256),
    Case("GLoRIA", 32, 40, 361, 768),
]


def loop(words: Tensor, regions: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """As AttnGAN's ``words_loss`` computes it: words [B, D, T], regions [B, D, R]."""
    gamma1, gamma2, gamma3 = GAMMAS
    B = len(words)
    columns = []
    for i, length in enumerate(lengths):
        word = words[i, :, :length].unsqueeze(0).contiguous().repeat(B, 1, 1)
        attention = torch.bmm(regions.transpose(1, 2).contiguous(), word).softmax(2)
        attention = (attention.transpose(1, 2).contiguous() * gamma1).softmax(2)
        context = torch.bmm(regions, attention.transpose(1, 2).contiguous())
        word = word.transpose(1, 2).contiguous().view(B * length, -1)
        context = context.transpose(1, 2).contiguous().view(B * length, -1)
        products = (word.norm(2, 1) * context.norm(2, 1)).clamp(min=1e-8)
        cosines = ((word * context).sum(1) / products).view(B, length)
        columns.append((cosines * gamma2).exp().sum(1, keepdim=True).log())
    similarities = torch.cat(columns, 1) * gamma3
    labels = torch.arange(B)
    return cross_entropy(similarities, labels), cross_entropy(similarities.transpose(0, 1), labels)


def all_pairs(words: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """The same written out at once for captions of one length: words [B, T, D], regions [B, R, D]."""
    gamma1, gamma2, gamma3 = GAMMAS
    B, T, D = words.shape
    attention = (words.reshape(B * T, D) @ regions.mT).view(B, B, T, -1).softmax(2)
    attention = (attention * gamma1).softmax(3)
    context = (attention.view(B, B * T, -1) @ regions).view(B, B, T, D)
    products = (words.norm(dim=2) * context.norm(dim=3)).clamp(min=1e-8)
    scores = gamma3 * (gamma2 * (context * words).sum(3) / products).logsumexp(2)
    labels = torch.arange(B)
    return cross_entropy(scores, labels), cross_entropy(scores.mT, labels)


class Contest:
    """One case in one dtype: the inputs, and who computes the loss of them."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.case = case
        self.words = torch.randn(case.B, case.T, case.D).to(dtype).requires_grad_()
        self.regions = torch.randn(case.B, case.R, case.D).to(dtype).requires_grad_()
        # As encoders of AttnGAN's kind leave them.
        self.channels = [x.detach().mT.contiguous().requires_grad_() for x in (self.words, self.regions)]
        self.lengths = torch.full((case.B,), case.T)

    def check(self) -> None:
        """Raises AssertionError unless our values and gradients are right, and the peers compute the same."""
        inputs = {"words": self.words[:3].detach(), "regions": self.regions[:3].detach(), "lengths": self.lengths[:3]}
        for name in ("words", "regions"):
            inputs[name].requires_grad_()
        assert_matches_reference("damsm_scores", inputs, backend="cpu")
        ours = self.xmkern()
        for theirs in (self.loop(), self.all_pairs()):
            tolerance = (
                {"rtol": 1e-4, "atol": 1e-4} if self.words.dtype == torch.float32 else {"rtol": 0.2, "atol": 0.2}
            )
            torch.testing.assert_close([x.float() for x in theirs], list(ours), **tolerance)

    def xmkern(self) -> tuple[Tensor, Tensor]:
        return xf.damsm_loss(self.words, self.regions, self.lengths, None, *GAMMAS)

    def loop(self) -> tuple[Tensor, Tensor]:
        return loop(*self.channels, self.lengths.tolist())

    def all_pairs(self) -> tuple[Tensor, Tensor]:
        return all_pairs(self.words, self.regions)

    def calls(self) -> dict[str, Callable[[], Any]]:
        def run(call: Callable[[], tuple[Tensor, Tensor]], leaves: list[Tensor]) -> None:
            torch.autograd.grad(sum(call()), leaves)

        own = [self.words, self.regions]
        return {
            "xmkern": partial(run, self.xmkern, own),
            "loop": partial(run, self.loop, self.channels),
            "all_pairs": partial(run, self.all_pairs, own),
        }

    def operations(self) -> float:
        """Of the products that we make (README.md of the operator counts them), two a multiply-add."""
        B, T, R, D = (float(getattr(self.case, name)) for name in "BTRD")
        return 2 * (B * B * T * (5 * R * D + 1.5 * R * R) + 2 * B * R * R * D)


def rows() -> list[dict[str, Any]]:
    out = []
    for dtype_name, dtype in DTYPES.items():
        rate = product_rate(dtype)
        for case in CASES:
            contest = Contest(case, dtype)
            contest.check()
            times = alternate(contest.calls(), seconds=4.0, least=3, burst=1)
            out.append(
                {
                    "case": case.name,
                    "shape": f"{case.B} {case.T} {case.R} {case.D}",
                    "dtype": dtype_name,
                    "pass": "forward + backward",
                    **{f"{name}_ms": round(1e3 * seconds, 2) for name, seconds in times.items()},
                    "ratio": round(times["loop"] / times["xmkern"], 2),
                    "gflops": round(contest.operations() / times["xmkern"] / 1e9, 1),
                    "product_gflops": round(rate / 1e9, 1),
                }
            )
            print(f"{dtype_name:9} {case.name:20} {out[-1]}", flush=True)
    return out


def table(measured: list[dict[str, Any]]) -> str:
    """A line a case and dtype."""
    lines = [
        "| | B, T, R, D | dtype | xmkern | loop over captions | all pairs at once |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for r in measured:
        ours, others = float(r["xmkern_ms"]), [float(r[f"{name}_ms"]) for name in ("loop", "all_pairs")]
        cells = [f"{other:.0f} ms **{other / ours:.1f}x**" for other in others]
        shape = r["shape"].replace(" ", ", ")
        lines.append(f"| {r['case']} | {shape} | {r['dtype']} | {ours:.0f} ms | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    measured = rows()
    print(table(measured))
    print(f"\nrows in {write_rows('damsm', measured).relative_to(RESULTS.parent.parent)}")
