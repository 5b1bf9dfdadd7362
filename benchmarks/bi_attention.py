"""Attention both ways against eager PyTorch and two calls of scaled_dot_product_attention, and Lu's co-attention."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import xmkern.functional as xf
from benchmarks.attention import DTYPES, product_rate
from benchmarks.measure import RESULTS, alternate, write_rows
from xmkern.testing import assert_matches_reference


@dataclass(frozen=True)
class Case:
    name: str
    B: int
    H: int
    L: int
    S: int
    D: int
    affinity: str = "dot"  # "tanh" is without softmax, and only eager PyTorch computes it
    lengths: bool = False  # the second side is padded: half of it is there, in the mean


CASES = [
    Case("regions and words", 16, 1, 196, 26, 512),
    Case("regions and words, padded", 16, 1, 196, 26, 512, lengths=True),
    Case("frames and words, 8 heads", 8, 8, 128, 64, 64),
    Case("patches and tokens, 12 heads", 8, 12, 197, 40, 64),
    Case("parallel co-attention", 16, 1, 196, 26, 512, affinity="tanh"),
]


class Contest:
    """One case in one dtype: the inputs, and who computes the outputs of them."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.case = case
        shape = (case.B, case.H)
        sizes = (case.L, case.S, case.L, case.S)
        self.leaves = [torch.randn(*shape, n, case.D).to(dtype).requires_grad_() for n in sizes]
        self.grads = [torch.randn(*shape, n, case.D).to(dtype) for n in sizes[:2]]
        self.there = torch.arange(case.S) < torch.linspace(1, case.S, case.B).round()[:, None] if case.lengths else None
        self.scale = case.D**-0.5

    def check(self) -> None:
        """Raises AssertionError unless our values and gradients are right, and the peers compute the same."""
        inputs: dict[str, Any] = {
            name: x[:2].detach().requires_grad_() for name, x in zip(("a", "b", "v_a", "v_b"), self.leaves, strict=True)
        }
        inputs |= self.options() | {"mask_b": None if self.there is None else self.there[:2]}
        assert_matches_reference("bi_attention", inputs, backend="cpu")
        wide = self.leaves[0].dtype == torch.float32
        for name, call in self.passes().items():
            if name != "xmkern":
                for got, expected in zip(self.visible(call()), self.visible(self.xmkern()), strict=True):
                    torch.testing.assert_close(got, expected, rtol=1e-3 if wide else 0.1, atol=1e-3 if wide else 0.1)

    def visible(self, outs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        there = self.there
        return outs if there is None else (outs[0], outs[1] * there[:, None, :, None])

    def options(self) -> dict[str, Any]:
        tanh = self.case.affinity == "tanh"
        return {"affinity": self.case.affinity, "normalize": None if tanh else "softmax", "scale": self.scale}

    def xmkern(self) -> tuple[Tensor, Tensor]:
        return xf.bi_attention(*self.leaves, mask_b=self.there, **self.options())

    def eager(self) -> tuple[Tensor, Tensor]:
        a, b, v_a, v_b = self.leaves
        c = a @ b.mT * self.scale
        if self.case.affinity == "tanh":
            c = c.tanh()
            return c @ v_b, c.mT @ v_a
        if self.there is None:
            return c.softmax(-1) @ v_b, c.softmax(-2).mT @ v_a
        return c.masked_fill(~self.there[:, None, None], -torch.inf).softmax(-1) @ v_b, c.softmax(-2).mT @ v_a

    def sdpa(self) -> tuple[Tensor, Tensor]:
        a, b, v_a, v_b = self.leaves
        mask = None if self.there is None else self.there[:, None, None]
        return F.scaled_dot_product_attention(a, b, v_b, mask), F.scaled_dot_product_attention(b, a, v_a)

    def passes(self) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
        calls = {"xmkern": self.xmkern, "eager": self.eager, "sdpa": self.sdpa}
        if self.case.affinity == "tanh":
            del calls["sdpa"]
        return calls

    def calls(self, backward: bool) -> dict[str, Callable[[], Any]]:
        def run(call: Callable[[], tuple[Tensor, Tensor]]) -> None:
            if backward:
                torch.autograd.grad(call(), self.leaves, self.grads)
            else:
                with torch.no_grad():
                    call()

        return {name: partial(run, call) for name, call in self.passes().items()}

    def operations(self, backward: bool) -> float:
        """Of the products: three, and seven more in the backward; two a multiply-add. What is padding counts too."""
        case = self.case
        return 2.0 * (10 if backward else 3) * case.B * case.H * case.L * case.S * case.D


class PooledContest:
    """Parallel co-attention as HieCoAtt trains with it, from projections on, beside its equations in eager PyTorch."""

    def __init__(self, dtype: torch.dtype, B: int = 100, L: int = 26, S: int = 196, D: int = 512, K: int = 512) -> None:
        torch.manual_seed(0)
        self.name, self.shape = "parallel co-attention, pooled", f"{B} 1 {S} {L} {D}"
        shapes = [(B, L, D), (B, S, D), (B, L, D), (B, S, D), (B, L, K), (B, S, K), (K,), (K,)]
        self.leaves = [(torch.randn(shape) / 5).to(dtype).requires_grad_() for shape in shapes]

    def xmkern(self) -> tuple[Tensor, Tensor]:
        return xf.parallel_co_attention(*self.leaves)[:2]

    def eager(self) -> tuple[Tensor, Tensor]:
        a, b, c_a, c_b, h_a, h_b, w_a, w_b = self.leaves
        c = (c_a @ c_b.mT).tanh()
        shares_a = ((h_a + c @ h_b).tanh() @ w_a).softmax(-1)
        shares_b = ((h_b + c.mT @ h_a).tanh() @ w_b).softmax(-1)
        return (shares_a[:, None] @ a)[:, 0], (shares_b[:, None] @ b)[:, 0]

    def check(self) -> None:
        tolerance = 1e-3 if self.leaves[0].dtype == torch.float32 else 0.1
        torch.testing.assert_close(self.xmkern(), self.eager(), rtol=tolerance, atol=tolerance)

    def calls(self, backward: bool) -> dict[str, Callable[[], Any]]:
        def run(call: Callable[[], tuple[Tensor, Tensor]]) -> None:
            if backward:
                torch.autograd.grad(sum(out.sum() for out in call()), self.leaves)
            else:
                with torch.no_grad():
                    call()

        return {"xmkern": partial(run, self.xmkern), "eager": partial(run, self.eager)}

    def operations(self, backward: bool) -> float:
        B, _, S, L, D = map(int, self.shape.split())
        return 2.0 * (10 if backward else 3) * B * L * S * D


def rows() -> list[dict[str, Any]]:
    out = []
    for dtype_name, dtype in DTYPES.items():
        rate = product_rate(dtype)
        contests: list[Contest | PooledContest] = [*(Contest(case, dtype) for case in CASES), PooledContest(dtype)]
        for contest in contests:
            contest.check()
            case = contest.case if isinstance(contest, Contest) else None
            for backward in (False, True):
                times = alternate(contest.calls(backward), seconds=1.0)
                peer = min(seconds for name, seconds in times.items() if name != "xmkern")
                sdpa = round(1e3 * times["sdpa"], 3) if "sdpa" in times else ""
                out.append(
                    {
                        "case": case.name if case else contest.name,
                        "shape": f"{case.B} {case.H} {case.L} {case.S} {case.D}" if case else contest.shape,
                        "dtype": dtype_name,
                        "pass": "forward + backward" if backward else "forward",
                        "xmkern_ms": round(1e3 * times["xmkern"], 3),
                        "eager_ms": round(1e3 * times["eager"], 3),
                        "sdpa_ms": sdpa,
                        "ratio": round(peer / times["xmkern"], 2),
                        "gflops": round(contest.operations(backward) / times["xmkern"] / 1e9, 1),
                        "product_gflops": round(rate / 1e9, 1),
                    }
                )
                print(out[-1], flush=True)
    return out


def table(measured: list[dict[str, Any]]) -> str:
    """A line a case, dtype and pass."""
    lines = [
        "| | B, H, L, S, D | dtype | pass | xmkern | eager | two SDPA |",
        "| --- | --- | --- | --- | ---: | ---: | ---: |",
    ]
    for r in measured:
        ours = float(r["xmkern_ms"])
        cells = [
            f"{float(ms):.2f} ms **{float(ms) / ours:.1f}x**" if ms else ""
            for ms in (str(r["eager_ms"]), str(r["sdpa_ms"]))
        ]
        shape = r["shape"].replace(" ", ", ")
        lines.append(f"| {r['case']} | {shape} | {r['dtype']} | {r['pass']} | {ours:.2f} ms | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    measured = rows()
    print(table(measured))
    print(f"\nrows in {write_rows('bi_attention', measured).relative_to(RESULTS.parent.parent)}")
