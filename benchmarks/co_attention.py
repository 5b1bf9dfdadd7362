"""Attention both ways between two streams, and over several sources, against what is written today in their places:
two attentions, and one over concatenated keys, eager or by torch's fused attention."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import xmkern.functional as xf
from benchmarks.attention import DTYPES, PASSES, product_rate, table
from benchmarks.measure import RESULTS, alternate, write_rows
from xmkern.testing import assert_matches_reference

# B, H, L and S, D: regions and words of ViLBERT, patches and words of a BridgeTower.
CO_ATTENTION = {"ViLBERT, co-attention": (16, 8, 36, 20, 128), "BridgeTower, co-attention": (8, 12, 197, 40, 64)}
# B, H, L, keys of each source, D.
SOURCES = {
    "GLIDE, text beside image": (2, 8, 256, (128, 256), 64),
    "ActBERT, three sources": (8, 12, 36, (36, 20, 20), 64),
}

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def eager(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.mT * query.shape[3] ** -0.5).softmax(-1) @ value


class CoAttention:
    def __init__(self, shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> None:
        B, H, L, S, D = shape
        torch.manual_seed(0)
        self.inputs = {
            f"{name}_{side}": torch.randn(B, H, n, D).to(dtype).requires_grad_()
            for side, n in (("a", L), ("b", S))
            for name in "qkv"
        }
        self.products = 2 * B * H * L * S * D  # multiply-adds of one product in both directions
        self.grad_outs = [torch.randn(B, H, n, D).to(dtype) for n in (L, S)]

    def check(self) -> None:
        assert_matches_reference("co_attention", self.inputs, backend="cpu")

    def xmkern(self) -> tuple[Tensor, ...]:
        return xf.co_attention(**self.inputs)

    def peer(self, attend: Attend) -> tuple[Tensor, ...]:
        x = self.inputs
        return attend(x["q_a"], x["k_b"], x["v_b"]), attend(x["q_b"], x["k_a"], x["v_a"])

    def leaves(self) -> list[Tensor]:
        return list(self.inputs.values())


class Sources:
    def __init__(self, shape: tuple[int, int, int, tuple[int, ...], int], dtype: torch.dtype) -> None:
        B, H, L, sizes, D = shape
        torch.manual_seed(0)
        draw = lambda n: torch.randn(B, H, n, D).to(dtype).requires_grad_()  # noqa: E731
        self.query, self.sources = draw(L), [(draw(n), draw(n)) for n in sizes]
        self.products = B * H * L * sum(sizes) * D
        self.grad_outs = [torch.randn(B, H, L, D).to(dtype)]

    def check(self) -> None:
        assert_matches_reference("cross_attention", {"query": self.query, "sources": self.sources}, backend="cpu")

    def xmkern(self) -> tuple[Tensor, ...]:
        return (xf.cross_attention(self.query, self.sources),)

    def peer(self, attend: Attend) -> tuple[Tensor, ...]:
        key, value = (torch.cat(parts, 2) for parts in zip(*self.sources, strict=True))
        return (attend(self.query, key, value),)

    def leaves(self) -> list[Tensor]:
        return [self.query, *(x for pair in self.sources for x in pair)]


def calls(contest: Any, which: str) -> dict[str, Callable[[], Any]]:
    def forward(attend: Callable[[], Any]) -> None:
        with torch.no_grad():
            attend()

    def both(attend: Callable[[], Any]) -> None:
        torch.autograd.grad(attend(), contest.leaves(), contest.grad_outs)

    contenders = {
        "xmkern": contest.xmkern,
        "sdpa": partial(contest.peer, scaled_dot_product_attention),
        "eager": partial(contest.peer, eager),
    }
    return {name: partial(forward if which == "forward" else both, call) for name, call in contenders.items()}


def rows() -> list[dict[str, Any]]:
    out = []
    for dtype_name, dtype in DTYPES.items():
        rate = product_rate(dtype)
        contests = {name: CoAttention(shape, dtype) for name, shape in CO_ATTENTION.items()}
        contests |= {name: Sources(shape, dtype) for name, shape in SOURCES.items()}
        for name, contest in contests.items():
            contest.check()
            for which in PASSES:
                times = alternate(calls(contest, which), seconds=2.0, least=7)
                best = min(times["sdpa"], times["eager"])
                operations = 2.0 * (2 if which == "forward" else 7) * contest.products
                out.append(
                    {
                        "case": name,
                        "shape": " ".join(
                            "+".join(map(str, n)) if isinstance(n, tuple) else str(n)
                            for n in {**CO_ATTENTION, **SOURCES}[name]
                        ),
                        "dtype": dtype_name,
                        "pass": which,
                        **{f"{who}_ms": round(time * 1e3, 4) for who, time in times.items()},
                        "ratio": round(best / times["xmkern"], 2),
                        "gflops": round(operations / times["xmkern"] / 1e9, 1),
                        "product_gflops": round(rate / 1e9, 1),
                    }
                )
                print(f"{dtype_name:9} {which:19} {name:27} {out[-1]['ratio']:.2f}x", flush=True)
    return out


def main() -> None:
    measured = rows()
    print(table(measured))
    path = write_rows("co_attention", measured)
    print(f"\nrows in {path.relative_to(RESULTS.parent.parent)}")
