"""Steps of diffusion, bound by memory, and noise."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import xmkern.functional as xf
from benchmarks.gpu.cases import BACKEND, FORWARD, Case, Inputs, compiles, normal, sized, spelled

SHAPE = (64, 4, 128, 128)
DDIM = xf.StepCoefficients(alpha=0.8, sigma=0.6, original=0.9, epsilon=0.4359)
DDPM = xf.StepCoefficients(alpha=0.8, sigma=0.6, sample=0.3, original=0.6, noise=0.2)


def cases() -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16):
        yield case("DDIM", SHAPE, dtype, DDIM, 3)
        yield case("DDPM, noise given", SHAPE, dtype, DDPM, 4)
        yield case("DDPM, noise drawn", SHAPE, dtype, DDPM, 3)
    yield case("DDIM", (1, 4, 64, 64), torch.float32, DDIM, 3)


def case(name: str, shape: tuple[int, ...], dtype: torch.dtype, coefficients: xf.StepCoefficients, moved: int) -> Case:
    """moved: how many times a sample is read or written."""
    given, drawn = name.endswith("given"), name.endswith("drawn")

    def inputs(size: str) -> Inputs:
        made = sized(shape, size, (3, 3, 17, 19))
        names = ("sample", "output", "noise") if given else ("sample", "output")
        return {k: normal(*made, dtype=dtype, graded=False) for k in names}

    def ours(sample: Tensor, output: Tensor, noise: Tensor | None = None, backend: str = BACKEND) -> Any:
        seed = 7 if drawn else None
        rest: dict[str, Any] = {"noise": noise, "seed": seed, "return_original": False, "backend": backend}
        return xf.diffusion_step(sample, output, coefficients, **rest)[0]

    def eager(sample: Tensor, output: Tensor, noise: Tensor | None = None) -> Any:
        c = coefficients
        original = (sample - c.sigma * output) / c.alpha
        previous = c.sample * sample + c.original * original + c.epsilon * output
        if drawn:
            noise = torch.randn_like(sample)
        return previous if noise is None else previous + c.noise * noise

    calls: dict[str, Callable[..., Any]] = {"xmkern": ours, "eager": eager, **compiles(eager)}
    elements = torch.Size(shape).numel()
    return Case(
        name, spelled(shape), dtype, inputs, calls, lambda **given: ours(**given, backend="reference"),
        bytes=float(moved * elements * dtype.itemsize), passes=(FORWARD,), compared=not drawn,
    )  # fmt: skip
