"""The public calls of diffusion."""

from collections.abc import Sequence
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from xmkern._functional.diffusion_coefficients import (
    DynamicThreshold,
    StepCoefficients,
    check_threshold,
    number,
    step_numbers,
)
from xmkern.ops import diffusion as ops

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def diffusion_step(
    sample: Tensor,
    model_output: Tensor,
    coefficients: StepCoefficients,
    *,
    history: Sequence[Tensor] = (),
    noise: Tensor | None = None,
    seed: int | None = None,
    offset: int = 0,
    prediction: Literal["epsilon", "sample", "v", "flow"] = "epsilon",
    variance: Literal["learned_range", "learned"] | None = None,
    clip: float | DynamicThreshold | None = None,
    guidance: float | None = None,
    guidance_rescale: float = 0.0,
    known: Tensor | None = None,
    mask: Tensor | None = None,
    return_original: bool = True,
    out: tuple[Tensor, Tensor | None] | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """One step of a diffusion sampler in one pass over memory: DDPM, DDIM, DPM-Solver, Euler, PNDM, RePaint and others
    differ in ``coefficients`` alone (``xmkern/ops/diffusion/README.md`` has the table).

    Everything is computed in float32 (float64 for float64) and rounded once. Numbers are the host's: nothing waits for
    the device. Where a gradient is asked for, plain PyTorch serves the call.

    Args:
        sample: [B, ...], x at time t; float32, bfloat16, float16 or float64, as are all other tensors.
        model_output: as sample; [B, 2 C, ...] with ``variance``, for a sample [B, C, ...]: the prediction, then the
            variance; [2 B, ...] with ``guidance``: without the condition, then with it.
        coefficients: the numbers of this step.
        history: up to three tensors as sample, one for each number of ``coefficients.history``: earlier originals, or
            whatever else is to be added, such as a classifier's gradient.
        noise: z, as sample or in float32. Not read where no coefficient asks for it.
        seed: instead of ``noise``: z is drawn, ``philox_normal(sample.shape, seed, offset)`` in float32.
        offset: where in the sequence of ``seed`` the noise begins: a multiple of the number of elements, say, that
            grows from step to step.
        prediction: what the model predicts, with x = alpha x0 + sigma eps and n^2 = alpha^2 + sigma^2: "epsilon",
            "sample" (x0), "v" ((alpha eps - sigma x0) / n; Salimans and Ho, 2022) or "flow" (eps - x0).
        variance: how the model predicts the variance of the noise too: "learned_range", a place between
            ``coefficients.log_variances`` (Nichol and Dhariwal, 2021), or "learned", itself. None: it does not.
        clip: x0 is clamped to [-clip, clip], or thresholded dynamically. None: neither.
        guidance: the scale g of classifier-free guidance (Ho and Salimans, 2022): u + g (c - u) for the predictions u
            without and c with the condition. The variance is that of c.
        guidance_rescale: how far the standard deviation of a guided sample is brought back to that of c, 0 to 1 (Lin et
            al., 2024).
        known: broadcasts to sample; what is known of x0.
        mask: broadcasts to sample, bool or of its dtype; 1 where ``known`` is to be kept.
        return_original: whether to return x0 too; where it is not needed, a quarter of the time goes with it.
        out: (previous, original): contiguous tensors as sample, which are written and returned; the first may be
            sample itself; None in the second place: x0 is not wanted. Fresh memory costs more than a step.

    Returns:
        The sample at the earlier time, and the predicted original x0, clipped (None if it is not wanted).

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    numbers = step_numbers(coefficients, prediction, variance, guidance, guidance_rescale, clip, len(history))
    if backend == "auto" and known is None and mask is None:
        made = ops.step_at_once(
            sample, model_output, noise, tuple(history), numbers, seed, offset, variance or "fixed",
            guidance is not None, return_original, out,
        )  # fmt: skip
        if made is not None:
            return made
    shape = _check_sample("sample", sample)
    expected: tuple[int, ...] = shape
    if guidance is not None:
        expected = (2 * shape[0], *shape[1:])
    if variance is not None:
        if len(shape) < 2:
            raise ValueError(f"sample must have an axis of channels, [B, C, ...], with variance, not {list(shape)}")
        expected = (expected[0], 2 * expected[1], *expected[2:])
    _check_like("model_output", model_output, sample, expected)
    for i, h in enumerate(history):
        _check_like(f"history[{i}]", h, sample, shape)
    h1, h2, h3 = (*history, None, None, None)[:3]
    if mask is not None or known is not None:
        known, mask = _check_known(known, mask, sample)
    if numbers[5] == numbers[6] == 0 and (mask is None or numbers[11] == 0):
        noise = seed = None
    elif noise is not None:
        if seed is not None:
            raise ValueError("noise and seed must not both be given")
        _check_like("noise", noise, sample, shape, torch.float32)
    elif seed is None:
        raise ValueError("noise or seed must be given where the coefficients noise, churn or known_noise are not 0")
    else:
        seed = _check_seed(seed, offset)
    tensors = (sample, model_output, noise, known, mask, h1, h2, h3)
    rest = (numbers, seed, offset, variance or "fixed")
    if out is None:
        previous, original = ops.diffusion_step(*tensors, *rest, return_original, backend=backend)
        return previous, original if return_original else None
    previous, original = out
    _check_out("out[0]", previous, sample)
    if original is not None:
        _check_out("out[1]", original, sample)
    ops.diffusion_step_into(previous, original, *tensors, *rest, original is not None, backend=backend)
    return previous, original


def dynamic_threshold(x0: Tensor, ratio: float = 0.995, max_value: float = 1.0, *, backend: str = "auto") -> Tensor:
    """Clamps each sample to [-s, s] and divides it by s, which is the quantile of its absolute values, but at least 1
    and at most ``max_value`` (Saharia et al., 2022, "Imagen").

    Args:
        x0: [B, ...], float32, bfloat16, float16 or float64.
        ratio: which quantile, 0 to 1; between two numbers it is interpolated, as by ``torch.quantile``.
        max_value: at least 1.

    Returns:
        As x0.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    _check_sample("x0", x0)
    check_threshold(ratio, max_value)
    return ops.dynamic_threshold(x0, float(ratio), float(max_value), backend=backend)


def q_sample(
    x0: Tensor,
    t: Tensor,
    alphas_cumprod: Tensor,
    noise: Tensor | None = None,
    *,
    seed: int | None = None,
    offset: int = 0,
    target: Literal["epsilon", "sample", "v"] | None = "epsilon",
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Noise for a training step (Ho et al., 2020): x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) z, each sample at a time of
    its own, and what a model should predict of it.

    Args:
        x0: [B, ...], float32, bfloat16, float16 or float64.
        t: [B], int64 or int32: each sample's place in ``alphas_cumprod``. On a GPU a place that is not there gives NaN,
            because to look would be to wait.
        alphas_cumprod: [T], float32 or float64: abar.
        noise: z, as x0 or in float32.
        seed: instead of ``noise``: z is drawn, ``philox_normal(x0.shape, seed, offset)`` in float32.
        offset: where in the sequence of ``seed`` the noise begins.
        target: "epsilon" (z), "sample" (x0), "v" (sqrt(abar_t) z - sqrt(1 - abar_t) x0) or None.

    Returns:
        x_t, and the target, both as x0. A noise that is given, and x0, are returned as they are.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    if target not in ("epsilon", "sample", "v", None):
        raise ValueError(f"target must be 'epsilon', 'sample', 'v' or None, not {target!r}")
    made = ops.q_sample_at_once(x0, t, alphas_cumprod, noise, seed, offset, target) if backend == "auto" else None
    if made is None:
        made = _q_sample(x0, t, alphas_cumprod, noise, seed, offset, target, backend)
    noisy, other = made
    if target == "sample":
        return noisy, x0
    if target == "epsilon" and noise is not None:
        return noisy, noise
    return noisy, other if target else None


def _q_sample(
    x0: Any, t: Any, alphas_cumprod: Any, noise: Any, seed: Any, offset: Any, target: Any, backend: str
) -> tuple[Tensor, Tensor]:
    """With everything checked."""
    shape = _check_sample("x0", x0)
    for name, x, dtypes in (("t", t, (torch.int64, torch.int32)), ("alphas_cumprod", alphas_cumprod, _DTYPES[::3])):
        if not isinstance(x, Tensor) or x.dtype not in dtypes:
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{name} must be a tensor of {dtypes[0]} or {dtypes[1]}, not {kind}")
        if x.device != x0.device:
            raise ValueError(f"{name} must be on {x0.device} as x0 is, not on {x.device}")
    if t.shape != shape[:1]:
        raise ValueError(f"t must be of shape [{shape[0]}], a number for each sample of x0, not {list(t.shape)}")
    if alphas_cumprod.dim() != 1 or alphas_cumprod.numel() == 0:
        raise ValueError(f"alphas_cumprod must be of shape [T], T at least 1, not {list(alphas_cumprod.shape)}")
    if (noise is None) == (seed is None):
        raise ValueError("noise or seed must be given, and not both")
    if noise is None:
        seed = _check_seed(seed, offset)
    else:
        _check_like("noise", noise, x0, shape, torch.float32)
    made: tuple[Tensor, Tensor] = ops.q_sample(
        x0, t, alphas_cumprod, noise, seed, offset, target or "none", backend=backend
    )
    return made


def classifier_guidance(mean: Tensor, variance: Tensor | float, gradient: Tensor, scale: float = 1.0) -> Tensor:
    """The mean of a reverse step, shifted along a classifier's gradient: mean + scale variance gradient (Dhariwal and
    Nichol, 2021, algorithm 1). Differentiable.

    Where the variance is a number, ``diffusion_step`` does the same on its way: ``history=(gradient,)`` with the
    coefficient ``scale * variance``.

    Args:
        mean: [B, ...], of the earlier sample.
        variance: broadcasts to mean, or a number.
        gradient: as mean; of log p(y | x_t) with respect to x_t.
        scale: 1 for the product of both distributions; more sharpens the classifier's.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    _check_sample("mean", mean)
    _check_like("gradient", gradient, mean, mean.shape)
    if not isinstance(variance, Tensor):
        return torch.add(mean, gradient, alpha=number("scale", scale) * number("variance", variance))
    variance = _broadcast("variance", variance, mean).to(mean.dtype)
    return torch.addcmul(mean, variance, gradient, value=number("scale", scale))


def philox_normal(
    shape: Sequence[int],
    seed: int,
    offset: int = 0,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Normal numbers of which each depends on the seed and its own index alone: the same on every device, with any
    number of threads, and in any parts (Philox4x32-10, Salmon et al., 2011; Box and Muller, 1958).

    Args:
        shape: of the result; its elements are the numbers ``offset`` and on of the seed's sequence, in row-major order.
        seed: from -2^63 to 2^64 - 1, as ``torch.Generator.initial_seed()`` gives it.
        offset: at least 0.
        device, dtype: of the result; by default as of ``torch.empty``. Numbers are made in float32 and rounded.
        out: a contiguous tensor of this shape, which is written and returned.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    if out is None:
        # one number after the other, which torch reads sooner than a tuple
        out = torch.empty(*shape or ((),), device=device, dtype=dtype)
    elif out.shape != torch.Size(shape) or not out.is_contiguous():
        raise ValueError(f"out must be contiguous and of shape {list(shape)}, not {list(out.shape)}")
    if backend == "auto" and ops.normals_at_once(out, seed, offset):
        return out
    if out.dtype not in _DTYPES:
        raise TypeError(f"{'dtype' if dtype else 'out'} must be one of {', '.join(map(str, _DTYPES))}, not {out.dtype}")
    ops.philox_normal(out, _check_seed(seed, offset), offset, backend=backend)
    return out


def _check_seed(seed: Any, offset: Any) -> int:
    """-> the seed as int64"""
    for name, value in ("seed", seed), ("offset", offset):
        if not isinstance(value, int):
            raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must be from -2^63 to 2^64 - 1, not {seed}")
    if not 0 <= offset < 2**62:
        raise ValueError(f"offset must be from 0 to 2^62 - 1, not {offset}")
    return seed if seed < 2**63 else seed - 2**64


def _check_sample(name: str, x: Any) -> torch.Size:
    """-> [B, ...]"""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(x).__name__}")
    if x.dtype not in _DTYPES:
        raise TypeError(f"{name} must be float32, bfloat16, float16 or float64, not {x.dtype}")
    shape = x.shape
    if not shape:
        raise ValueError(f"{name} must have an axis of samples, [B, ...], not shape []")
    return shape


def _check_like(name: str, x: Any, sample: Tensor, shape: Any, also: torch.dtype | None = None) -> None:
    if (
        isinstance(x, Tensor)
        and x.shape == shape
        and (x.dtype == sample.dtype or x.dtype == also)
        and x.device == sample.device
    ):
        return
    _complain(name, x, sample, shape)


def _complain(name: str, x: Any, sample: Tensor, shape: Any) -> NoReturn:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(x).__name__}")
    if x.shape != shape:
        raise ValueError(f"{name} must be of shape {list(shape)}, not {list(x.shape)}")
    if x.device != sample.device:
        raise ValueError(f"{name} must be on {sample.device}, not on {x.device}")
    raise TypeError(f"{name} must be {sample.dtype}, not {x.dtype}")


def _check_known(known: Any, mask: Any, sample: Tensor) -> tuple[Tensor, Tensor]:
    if known is None or mask is None:
        raise ValueError("known and mask must be given together")
    if isinstance(mask, Tensor) and mask.dtype == torch.bool:
        mask = mask.to(sample.dtype)
    known, mask = _broadcast("known", known, sample), _broadcast("mask", mask, sample)
    _check_like("known", known, sample, sample.shape)
    _check_like("mask", mask, sample, sample.shape)
    return known, mask


def _broadcast(name: str, x: Any, sample: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(x).__name__}")
    try:
        return x.expand(sample.shape)
    except RuntimeError:
        raise ValueError(f"{name} must broadcast to {list(sample.shape)}, not {list(x.shape)}") from None


def _check_out(name: str, x: Any, sample: Tensor) -> None:
    _check_like(name, x, sample, sample.shape)
    if not x.is_contiguous():
        raise ValueError(f"{name} must be contiguous, not of strides {x.stride()}")
