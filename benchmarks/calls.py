"""What a call costs where there is next to nothing to compute, against the same in PyTorch or diffusers: decoding,
small batches and samplers make many such calls."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

import xmkern.diffusion
import xmkern.functional as xf
from benchmarks.diffusion import diffusers
from benchmarks.epilogue import TAILS, draw
from benchmarks.measure import RESULTS, alternate, write_rows

HEADS = (1, 2, 4, 16)
ROWS = (1, 4, 64)
PICTURE = (1, 3, 8, 8)
Pair = tuple[Callable[[], Any], Callable[[], Any]]


def attention() -> dict[str, Pair]:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, *HEADS, requires_grad=True).unbind()
    visible = torch.rand(1, 1, 4, 4) < 0.7
    visible[..., 0] = True
    options: dict[str, dict[str, Any]] = {
        "attention": {},
        "attention, causal": {"is_causal": True},
        "attention, bool mask": {"attn_mask": visible},
    }
    return {
        name: (
            partial(xf.scaled_dot_product_attention, q, k, v, **given),
            partial(F.scaled_dot_product_attention, q, k, v, **given),
        )
        for name, given in options.items()
    }


def tails() -> dict[str, Pair]:
    t = draw(ROWS, torch.float32)
    return {
        name: (partial(getattr(xf, tail.call), **tail.options(t)), partial(tail.eager, t))
        for name, tail in TAILS.items()
        if "dropout" not in name
    }


def steps() -> dict[str, Pair]:
    torch.manual_seed(0)
    x, m, noise = torch.randn(3, *PICTURE).unbind()
    pairs: dict[str, Pair] = {}
    for name, short in (
        ("DDPMScheduler", "DDPM step"),
        ("DDIMScheduler", "DDIM step"),
    ):
        theirs, ours = (getattr(module, name)() for module in (diffusers(), xmkern.diffusion))
        for scheduler in (theirs, ours):
            scheduler.set_timesteps(50)
        t = theirs.timesteps[25]
        generators = [torch.Generator().manual_seed(0) for _ in range(2)]
        given = [{} if "DDPM" not in name else {"generator": generator} for generator in generators]
        pairs[short] = partial(ours.step, m, t, x, **given[0]), partial(theirs.step, m, t, x, **given[1])
    t, table = torch.tensor([500]), torch.linspace(0.99, 0.01, 1000)
    theirs = diffusers().DDPMScheduler()
    pairs["q_sample"] = partial(xf.q_sample, x, t, table, noise), partial(theirs.add_noise, x, noise, t)
    return pairs


def first(result: Any) -> torch.Tensor:
    """The tensor that a call is made for."""
    if isinstance(result, torch.Tensor):
        return result
    return result.prev_sample if hasattr(result, "prev_sample") else result[0]


def trained(call: Callable[[], torch.Tensor], gradient: torch.Tensor) -> None:
    call().backward(gradient)


def rows() -> list[dict[str, Any]]:
    out = []
    for family, pairs in {"attention": attention(), "tails": tails(), "diffusion": steps()}.items():
        for name, (ours, theirs) in pairs.items():
            if name != "q_sample":  # the tables differ
                torch.testing.assert_close(first(ours()), first(theirs()), rtol=1e-4, atol=1e-5)
            for which in ("call", "call + backward")[: 1 + (family != "diffusion")]:
                both: list[Callable[[], Any]] = [ours, theirs]
                if which != "call":
                    gradient = torch.ones_like(ours())
                    both = [partial(trained, each, gradient) for each in both]
                with torch.set_grad_enabled(which != "call"):
                    times = alternate(dict(zip(("xmkern", "peer"), both, strict=True)), seconds=1.0, burst=50)
                out.append(
                    {
                        "call": name,
                        "pass": which,
                        **{f"{who}_us": round(1e6 * seconds, 1) for who, seconds in times.items()},
                        "ratio": round(times["peer"] / times["xmkern"], 2),
                    }
                )
                print(f"{name:22} {which:16} {out[-1]['xmkern_us']:7.1f} us {out[-1]['ratio']:.2f}x", flush=True)
    return out


def table(measured: list[dict[str, Any]]) -> str:
    """A line a call."""
    passes = ("call", "call + backward")
    found = {(r["call"], r["pass"]): r for r in measured}
    lines = ["| | a call | peer | with its backward | peer |", "| --- | ---: | ---: | ---: | ---: |"]
    for name in dict.fromkeys(r["call"] for r in measured):
        cells = [
            f"{float(r['xmkern_us']):.0f} us **{float(r['ratio']):.1f}x** | {float(r['peer_us']):.0f} us"
            if (r := found.get((name, which)))
            else " | "
            for which in passes
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    measured = rows()
    print(table(measured))
    print(f"\nrows in {write_rows('calls', measured).relative_to(RESULTS.parent.parent)}")
