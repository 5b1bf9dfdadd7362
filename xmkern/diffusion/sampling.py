"""The loop of sampling."""

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from xmkern.diffusion.base import Generator, Scheduler, draw
from xmkern.functional import philox_normal


@torch.no_grad()
def sample(
    model: Callable[..., Any],
    scheduler: Scheduler,
    shape: tuple[int, ...],
    condition: Any = None,
    guidance_scale: float | None = None,
    *,
    unconditional: Any = None,
    guidance_rescale: float = 0.0,
    steps: int | None = 50,
    seed: int | None = None,
    generator: Generator | None = None,
    latents: Tensor | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = False,
    callback: Callable[[int, Any, Tensor], Tensor | None] | None = None,
    out: Tensor | None = None,
    **step: Any,
) -> Tensor:
    """Draws samples: from noise, through all steps of a scheduler.

    Args:
        model: ``model(x, t)``, or ``model(x, t, condition)`` where there is one, with t one of ``scheduler.timesteps``;
            returns the prediction, or something that has it as ``sample``, as the models of diffusers do.
        scheduler: of this package.
        shape: [B, C, ...], of the samples.
        condition: what the model gets as its third argument: with guidance a tensor [B, ...].
        guidance_scale: of guidance without a classifier, which the step itself does; the model is then called with
            2 B samples, without the condition first. None: the model is called with B.
        unconditional: broadcasts to ``condition``: what stands for none of it, by default zeros.
        guidance_rescale: see :func:`xmkern.functional.diffusion_step`.
        steps: how many; None: as ``scheduler.set_timesteps`` was called before.
        seed: all noise is drawn from it by :func:`xmkern.functional.philox_normal`, inside the steps' kernels: the same
            samples on every device. By default ``scheduler.seed``, unless a generator is given.
        generator: instead, of torch, one or one for each sample: the same samples as by a pipeline of diffusers.
        latents: as shape: noise to begin with, of deviation 1.
        device, dtype: of the samples; by default as of ``out``, ``latents`` or ``torch.empty``.
        progress: whether a bar is shown, by rich or tqdm, where one is installed.
        callback: called after each step with its number, t and the sample; what it returns, if anything, replaces that.
        out: as shape, contiguous: is written and returned.
        step: further arguments of ``scheduler.step``, such as ``eta``, or ``original_image`` and ``mask``.

    Returns:
        As shape.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    if seed is not None and generator is not None:
        raise ValueError("seed and generator must not both be given")
    for name, given in ("latents", latents), ("out", out):
        if given is not None and given.shape != torch.Size(shape):
            raise ValueError(f"{name} must be of shape {list(shape)}, not {list(given.shape)}")
    if seed is None and generator is None:
        seed = scheduler.seed
    B, guided = shape[0], guidance_scale is not None
    if guided:
        condition = _with_and_without(condition, unconditional, B)
        step |= {"guidance_scale": guidance_scale, "guidance_rescale": guidance_rescale}
    like = out if out is not None else latents if latents is not None else torch.empty(0, device=device, dtype=dtype)
    if steps is None:
        scheduler.restart()
    else:
        scheduler.set_timesteps(steps, device=like.device)  # type: ignore[attr-defined]
    # The two halves of a guided batch see the same sample, which lives in the first one.
    both = out if out is not None and not guided else like.new_empty((B * (1 + guided), *shape[1:]))
    x = both[:B]
    if latents is not None:
        x.copy_(latents)
    elif seed is not None:
        philox_normal(shape, seed, out=x)
    else:
        x.copy_(draw(torch.Size(shape), generator, x.device, x.dtype))
    x *= scheduler.init_noise_sigma
    scheduler.skip_noise(x.numel())
    randomness: dict[str, Any] = {"seed": seed, "generator": generator}
    times = scheduler.timesteps
    undone = [t > last for last, t in pairwise([math.inf, *times.tolist()])]
    for i, t in enumerate(_shown(times, progress)):
        both[B:].copy_(x[: len(both) - B])
        if undone[i]:
            x.copy_(scheduler.undo_step(x, times[i - 1], **randomness))  # type: ignore[attr-defined]
        else:
            seen = scheduler.scale_model_input(both, t)
            predicted = model(seen, t) if condition is None else model(seen, t, condition)
            predicted = predicted if isinstance(predicted, Tensor) else predicted.sample
            scheduler.step(predicted, t, x, out=(x, None), **randomness, **step)  # type: ignore[attr-defined]
        replaced = None if callback is None else callback(i, t, x)
        if replaced is not None:
            x.copy_(replaced)
    if not guided:
        return x
    return x.clone() if out is None else out.copy_(x)


def _with_and_without(condition: Any, unconditional: Tensor | None, B: int) -> Tensor:
    if not isinstance(condition, Tensor):
        raise TypeError(f"condition must be a tensor where guidance_scale is given, not {type(condition).__name__}")
    if len(condition) != B:
        raise ValueError(f"condition must be of {B} samples as shape is, not of shape {list(condition.shape)}")
    none = torch.zeros_like(condition) if unconditional is None else unconditional.expand_as(condition)
    return torch.cat([none, condition])


def _shown(times: Tensor, progress: bool) -> Iterable[Tensor]:
    if not progress:
        return times
    try:
        from rich.progress import track

        return track(times, description="sampling")
    except ImportError:
        try:
            from tqdm import tqdm

            return tqdm(times, desc="sampling")
        except ImportError:
            return times
