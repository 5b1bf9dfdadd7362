"""Steps of diffusion against diffusers' schedulers, noise and training noise against eager PyTorch.

A step is a call of ``scheduler.step`` on either side, the same time again and again: both have been there before.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import xmkern.diffusion
import xmkern.functional as xf
from benchmarks.measure import RESULTS, alternate, write_rows

SHAPES = [(1, 3, 32, 32), (4, 4, 64, 64), (8, 3, 64, 64), (16, 3, 256, 256)]
MIDDLE = 25
Calls = dict[str, Callable[[], Any]]


def diffusers() -> Any:
    try:
        import diffusers
    except ImportError:
        raise SystemExit("diffusers is the peer of this benchmark: pip install diffusers") from None
    return diffusers


class Contest:
    """One shape: the inputs, and who steps."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        self.shape = shape
        self.x, self.m, self.noise = torch.randn(3, *shape).unbind()
        self.doubled = torch.randn(2 * shape[0], 2 * shape[1], *shape[2:])
        self.out = torch.empty_like(self.x), torch.empty_like(self.x)
        self.offsets = itertools.count(0, self.x.numel())
        self.t = torch.randint(0, 1000, shape[:1])

    def check(self, ours: Any, theirs: Any) -> None:
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    def drawn(self) -> dict[str, int]:
        """Noise that no step has had before."""
        return {"seed": 1, "offset": next(self.offsets)}

    def steps(self, name: str, **knobs: Any) -> tuple[Any, Any, Tensor]:
        """Their scheduler, ours, and a time in the middle of 50 steps."""
        both = [getattr(module, name)(**knobs) for module in (diffusers(), xmkern.diffusion)]
        for scheduler in both:
            scheduler.set_timesteps(50)
        return *both, both[0].timesteps[MIDDLE]

    def ddpm(self, guided: bool = False) -> Calls:
        theirs, ours, t = self.steps("DDPMScheduler", variance_type="learned_range" if guided else "fixed_small")
        output = self.doubled if guided else self.m
        fused = {"guidance_scale": 4.0} if guided else {}

        def eager(generator: torch.Generator | None = None) -> Any:
            m = self.m
            if guided:
                without, given = self.doubled.chunk(2)
                (without, _), (given, v) = without.chunk(2, 1), given.chunk(2, 1)
                m = torch.cat([without + 4.0 * (given - without), v], dim=1)
            return theirs.step(m, t, self.x, generator=generator, return_dict=False)

        def drawn_by_torch() -> Any:
            generator = torch.Generator().manual_seed(1)
            return ours.step(output, t, self.x, generator=generator, return_dict=False, **fused)

        self.check(drawn_by_torch(), eager(torch.Generator().manual_seed(1)))
        ours.seed = 1
        return {
            "xmkern": lambda: ours.step(output, t, self.x, return_dict=False, **fused),
            "out": lambda: ours.step(output, t, self.x, return_dict=False, out=self.out, **fused),
            "peer": eager,
        }

    def ddpm_learned(self) -> Calls:
        return self.ddpm(guided=True)

    def ddim(self) -> Calls:
        theirs, ours, t = self.steps("DDIMScheduler")
        calls: Calls = {
            "xmkern": lambda: ours.step(self.m, t, self.x, return_dict=False),
            "out": lambda: ours.step(self.m, t, self.x, return_dict=False, out=self.out),
            "peer": lambda: theirs.step(self.m, t, self.x, return_dict=False),
        }
        self.check(calls["xmkern"](), calls["peer"]())
        return calls

    def dpm_solver(self) -> Calls:
        """DPM-Solver++ of the second order, by the midpoint."""
        theirs, ours, t = self.steps("DPMSolverMultistepScheduler")
        oldest = torch.empty_like(self.x)

        def step(scheduler: Any, **fused: Any) -> Any:
            scheduler._step_index, scheduler.lower_order_nums = MIDDLE, 2
            scheduler.model_outputs = [oldest, self.noise]
            return scheduler.step(self.m, t, self.x, return_dict=False, **fused)

        self.check(step(ours), step(theirs))
        return {
            "xmkern": lambda: step(ours),
            "out": lambda: step(ours, out=(self.out[0], None)),
            "peer": lambda: step(theirs),
        }

    def threshold(self) -> Calls:
        scheduler = diffusers().DDPMScheduler(thresholding=True, sample_max_value=2.0)
        x0 = 2 * self.x
        calls: Calls = {
            "xmkern": lambda: xf.dynamic_threshold(x0, 0.995, 2.0),
            "peer": lambda: scheduler._threshold_sample(x0),
        }
        self.check([calls["xmkern"]()], [calls["peer"]()])
        return calls

    def q_sample(self, draws: bool = False) -> Calls:
        scheduler = diffusers().DDPMScheduler()
        table = scheduler.alphas_cumprod

        def eager() -> tuple[Tensor, Tensor]:
            noise = torch.randn_like(self.x) if draws else self.noise
            return scheduler.add_noise(self.x, noise, self.t), noise

        self.check(
            xf.q_sample(self.x, self.t, table, self.noise),
            (scheduler.add_noise(self.x, self.noise, self.t), self.noise),
        )
        if draws:
            return {"xmkern": lambda: xf.q_sample(self.x, self.t, table, **self.drawn()), "peer": eager}
        return {"xmkern": lambda: xf.q_sample(self.x, self.t, table, self.noise), "peer": eager}

    def q_sample_drawn(self) -> Calls:
        return self.q_sample(draws=True)

    def normal(self) -> Calls:
        return {
            "xmkern": lambda: xf.philox_normal(self.shape, **self.drawn()),
            "out": lambda: xf.philox_normal(self.shape, **self.drawn(), out=self.out[0]),
            "peer": lambda: torch.randn(self.shape),
        }


# What is timed, and how many tensors of a sample's size it moves where nothing is drawn.
KINDS: dict[str, tuple[Callable[[Contest], Calls], int]] = {
    "DDPM, noise drawn": (Contest.ddpm, 0),
    "DDPM, learned range, guidance": (Contest.ddpm_learned, 0),
    "DDIM": (Contest.ddim, 4),
    "DPM-Solver++ 2M": (Contest.dpm_solver, 5),
    "dynamic threshold": (Contest.threshold, 0),
    "q_sample, noise given": (Contest.q_sample, 3),
    "q_sample, noise drawn": (Contest.q_sample_drawn, 0),
    "philox_normal": (Contest.normal, 0),
}


def share_of_copy(shape: tuple[int, ...], moved: int, seconds: float) -> float:
    """The rate at which ``moved`` tensors are read or written, over that of copying as many bytes."""
    source = torch.ones(math.prod(shape) * moved // 2)
    target = torch.empty_like(source)
    return alternate({"copy": lambda: target.copy_(source)}, seconds=0.5)["copy"] / seconds


def rows() -> list[dict[str, Any]]:
    out = []
    for shape in SHAPES:
        contest = Contest(shape)
        for kind, (make, moved) in KINDS.items():
            times = alternate(make(contest), seconds=1.0)
            row = {
                "case": kind,
                "shape": " ".join(map(str, shape)),
                "dtype": "float32",
                "xmkern_us": round(1e6 * times["xmkern"], 1),
                "out_us": round(1e6 * times["out"], 1) if "out" in times else "",
                "peer_us": round(1e6 * times["peer"], 1),
                "ratio": round(times["peer"] / times["xmkern"], 2),
                "copy_share": "",
            }
            if moved and shape == SHAPES[-1]:
                row["copy_share"] = round(share_of_copy(shape, moved, times.get("out", times["xmkern"])), 2)
            out.append(row)
            print(
                f"{row['shape']:14} {kind:30} {row['xmkern_us']:>8} us {row['ratio']:>6}x {row['copy_share']}",
                flush=True,
            )
    return out


def table(measured: list[dict[str, Any]]) -> str:
    """A line a case; a shape a column: our microseconds, and how many times faster than the peer."""
    shapes = list(dict.fromkeys(r["shape"] for r in measured))
    lines = ["| | " + " | ".join(s.replace(" ", ", ") for s in shapes) + " |", "| --- |" + " ---: |" * len(shapes)]
    for case in dict.fromkeys(r["case"] for r in measured):
        found = {r["shape"]: r for r in measured if r["case"] == case}
        cells = (f"{float(found[s]['xmkern_us']):.0f} us **{float(found[s]['ratio']):.1f}x**" for s in shapes)
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    measured = rows()
    print(table(measured))
    print(f"\nrows in {write_rows('diffusion', measured).relative_to(RESULTS.parent.parent)}")
