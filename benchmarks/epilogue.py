"""What follows a projection against the chains of eager calls that it stands for, and against the memory's speed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import xmkern.functional as xf
from benchmarks.attention import DTYPES
from benchmarks.measure import RESULTS, alternate, write_rows
from xmkern.testing import assert_matches_reference

SHAPES = {"ViT-B": (16, 197, 768), "ViT-L": (8, 577, 1024), "UNet": (2, 4096, 320), "few": (4, 20, 768)}
LARGE = (32, 577, 1024)


@dataclass(frozen=True)
class Tail:
    """A call of ``xmkern.functional`` and what eager PyTorch does for it; passes: over tensors of x's size, without and
    with the backward, that cannot be done without."""

    call: str
    options: Callable[[dict[str, Tensor]], dict[str, Any]]
    eager: Callable[[dict[str, Tensor]], Any]
    passes: tuple[float, float]


def post(t: dict[str, Tensor], branch: Tensor) -> Tensor:
    return F.layer_norm(t["residual"] + branch, branch.shape[-1:], t["weight"], t["bias"])


def named(*names: str, **options: Any) -> Callable[[dict[str, Tensor]], dict[str, Any]]:
    """The tensors of these names, or of others: named("x", bias="weight")."""
    return lambda t: (
        {n: t[n] for n in names} | {n: t[o] if isinstance(o, str) and o in t else o for n, o in options.items()}
    )


def geglu(t: dict[str, Tensor]) -> Tensor:
    value, gate = t["wide"].chunk(2, -1)
    return value * F.gelu(gate)


NORM = ("x", "residual", "weight", "bias")
TAILS = {
    "post-norm": Tail("add_layer_norm", named(*NORM), lambda t: post(t, t["x"]), (3, 7)),
    "bias, post-norm": Tail(
        "add_layer_norm", named(*NORM, "linear_bias"), lambda t: post(t, t["x"] + t["linear_bias"]), (3, 7)
    ),
    "bias, dropout, post-norm": Tail(
        "add_layer_norm",
        named(*NORM, "linear_bias", dropout_p=0.1),
        lambda t: post(t, F.dropout(t["x"] + t["linear_bias"], 0.1)),
        (3, 8),
    ),
    "sandwich": Tail(
        "sandwich_layer_norm",
        named(*NORM),
        lambda t: t["residual"] + F.layer_norm(t["x"], t["x"].shape[-1:], t["weight"], t["bias"]),
        (3, 6),
    ),
    "gate of Flamingo": Tail(
        "gated_residual",
        named("x", "residual", gate="alpha", activation="tanh"),
        lambda t: t["residual"] + torch.tanh(t["alpha"]) * t["x"],
        (3, 6),
    ),
    "gate of elements": Tail(
        "gated_residual",
        named("x", "residual", gate="gates", activation="sigmoid"),
        lambda t: t["residual"] + torch.sigmoid(t["gates"]) * t["x"],
        (4, 9),
    ),
    "bias + GELU": Tail("bias_activation", named("x", "bias"), lambda t: F.gelu(t["x"] + t["bias"]), (2, 5)),
    "GEGLU": Tail("gated_activation", named(x="wide"), geglu, (3, 8)),
}


def draw(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(0)
    D = shape[-1]
    sizes = {"x": shape, "residual": shape, "gates": shape, "wide": (*shape[:-1], 2 * D), "alpha": (1,)}
    sizes |= dict.fromkeys(("weight", "bias", "linear_bias"), (D,))
    return {name: torch.randn(size).to(dtype).requires_grad_() for name, size in sizes.items()}


class Contest:
    """One tail in one shape and dtype."""

    def __init__(self, tail: Tail, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.tail, self.tensors = tail, draw(shape, dtype)
        self.options = tail.options(self.tensors)
        self.leaves = [x for x in self.options.values() if isinstance(x, Tensor)]
        self.grad = torch.randn(shape).to(dtype)

    def check(self) -> None:
        """Raises AssertionError unless our values and gradients are right; of a gate that is one number the gradient is
        not compared, for whose rounding is the lesser is luck (the tests compare many)."""
        few = {
            name: x[:1, :50].detach().requires_grad_() if isinstance(x, Tensor) and x.dim() > 1 else x
            for name, x in self.options.items()
        }
        few = {name: x.detach() if isinstance(x, Tensor) and x.numel() == 1 else x for name, x in few.items()}
        assert_matches_reference(self.tail.call, few, backend="cpu")

    def ours(self) -> Tensor:
        return getattr(xf, self.tail.call)(**self.options)

    def eager(self) -> Tensor:
        return self.tail.eager(self.tensors)

    def calls(self, backward: bool) -> dict[str, Callable[[], Any]]:
        def run(call: Callable[[], Tensor]) -> None:
            if backward:
                torch.autograd.grad(call(), self.leaves, self.grad)
            else:
                with torch.no_grad():
                    call()

        return {name: partial(run, call) for name, call in (("xmkern", self.ours), ("eager", self.eager))}


def rows() -> list[dict[str, Any]]:
    out = []
    torch.manual_seed(0)
    # From here on the C library keeps what is freed of up to 32 MB, as it does in a program that has run for a while.
    torch.empty(2**23 - 2**12).fill_(0)
    for dtype_name, dtype in DTYPES.items():
        for shape_name, shape in (*SHAPES.items(), ("large", LARGE)):
            for name, tail in TAILS.items():
                contest = Contest(tail, shape, dtype)
                contest.check()
                x = contest.tensors["x"].detach()
                for backward in (False, True):
                    # A copy writes a tensor that it has just got from the allocator, as all who are timed here do.
                    calls = {**contest.calls(backward), "copy": x.clone}
                    large = shape_name == "large"
                    times = alternate(calls, seconds=0.2, least=3 if large else 5, burst=1 if large else 3)
                    moved = tail.passes[backward] * x.nbytes
                    bandwidth = 2 * x.nbytes / times["copy"]
                    out.append(
                        {
                            "tail": name,
                            "case": shape_name,
                            "shape": " ".join(map(str, shape)),
                            "dtype": dtype_name,
                            "pass": "forward + backward" if backward else "forward",
                            **{f"{who}_ms": round(1e3 * times[who], 4) for who in ("xmkern", "eager")},
                            "ratio": round(times["eager"] / times["xmkern"], 2),
                            "gb_per_s": round(moved / times["xmkern"] / 1e9, 1),
                            "copy_gb_per_s": round(bandwidth / 1e9, 1),
                        }
                    )
                    print(*out[-1].values(), flush=True)
    return out


def table(measured: list[dict[str, Any]], case: str = "ViT-B") -> str:
    """A line a tail, a column a dtype and pass: our time, and how many times it goes into eager PyTorch's."""
    columns = [(dtype, way) for dtype in DTYPES for way in ("forward", "forward + backward")]
    lines = ["| | " + " | ".join(f"{d}, {w}" for d, w in columns) + " |", "| --- |" + " ---: |" * len(columns)]
    found = {(r["tail"], r["dtype"], r["pass"]): r for r in measured if r["case"] == case}
    for tail in TAILS:
        chosen = [found[tail, *column] for column in columns]
        cells = [f"{float(r['xmkern_ms']):.2f} ms **{float(r['ratio']):.1f}x**" for r in chosen]
        lines.append(f"| {tail} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    measured = rows()
    print(table(measured))
    print(f"\nrows in {write_rows('epilogue', measured).relative_to(RESULTS.parent.parent)}")
