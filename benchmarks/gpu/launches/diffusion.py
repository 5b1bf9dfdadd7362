"""A diffusion step with all that it may have, and noise."""

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch

from benchmarks.gpu.launches import Launch, dtype_name
from xmkern.ops.diffusion import triton as launcher
from xmkern.ops.diffusion.op import _step_sample
from xmkern.ops.diffusion.reference import Numbers

VARIANCES = ("fixed", "learned", "learned_range")


def launches(chip: int) -> Iterator[Launch]:
    for dtype in (torch.float32, torch.bfloat16):
        kind = dtype_name(dtype)
        for variance, drawn, guided in product(VARIANCES, (True, False), (True, False)):
            name = f"{variance} variance{', drawn' * drawn}{', guided' * guided}, {kind}"
            call = partial(step, dtype, variance, drawn, guided)
            yield Launch(name, call, usual=(variance, drawn, guided) == ("fixed", True, True))
            yield Launch(f"{name}, thresholds", partial(call, ratio=0.995, rescale=0.5))
        yield Launch(f"DDIM, {kind}", partial(plain, dtype), usual=True)
        yield Launch(f"noise, {kind}", partial(noise, dtype), usual=True)


def step(
    dtype: torch.dtype, variance: str = "fixed", drawn: bool = True, guided: bool = False, **numbers: float
) -> None:
    """At a size that is many programs."""
    example = Numbers(*_step_sample()[8])._replace(ratio=-1.0, rescale=0.0, guidance=3.0)
    x = torch.zeros(2, 4, 64, 64, dtype=dtype)
    output = torch.zeros(4 if guided else 2, 4 if variance == "fixed" else 8, 64, 64, dtype=dtype)
    given = (x, output, None if drawn else x, x, x[:, :1].expand(x.shape), x, x, None)
    launcher.diffusion_step(*given, tuple(example._replace(**numbers)), 7 if drawn else None, 0, variance, True)


def plain(dtype: torch.dtype) -> None:
    """A sample and a model's output, and nothing else."""
    example = Numbers(*_step_sample()[8])._replace(ratio=-1.0, rescale=0.0)
    x = torch.zeros(64, 4, 128, 128, dtype=dtype)
    launcher.diffusion_step(x, x, *(None,) * 6, tuple(example), None, 0, "fixed", False)


def noise(dtype: torch.dtype) -> None:
    x, t, table = torch.zeros(2, 3, 64, 64, dtype=dtype), torch.zeros(2, dtype=torch.int64), torch.ones(10)
    for offset in (0, 5):  # numbers in 16s where samples are, and where they are not
        launcher.q_sample(x, t, table, None, 3, offset, "v")
    launcher.q_sample(x, t, table, x, None, 0, "epsilon")
    launcher.philox_normal(x, 3, 2**40)
