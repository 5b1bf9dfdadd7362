"""The numbers of a sampling step: as users give them, and as a kernel takes them."""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from xmkern.ops.diffusion import Numbers

MAX_HISTORY = 3


class StepCoefficients(NamedTuple):
    """The numbers of one sampling step, from time t to an earlier one: with the model's prediction made into the
    original x0 (clipped) and the noise eps (not clipped), both at time t,

        previous = sample x + original x0 + epsilon eps + sum_i history_i h_i + noise z

    Args:
        alpha, sigma: x = alpha x0 + sigma eps at time t: sqrt(abar_t) and sqrt(1 - abar_t) where the variance is
            preserved, 1 and sigma_t where it explodes.
        sample, original, epsilon, history: the weights above.
        noise: the deviation of fresh noise z; where the model predicts the variance, what its deviation is multiplied
            with: 1, or 0 at the last step.
        churn: before all else x becomes x + churn z (Karras et al., 2022).
        known, known_noise: where ``mask`` is 1, previous = known ``known`` + known_noise z (RePaint).
        log_variances: between which a variance of "learned_range" lies: the logarithms of the posterior variance (the
            model's -1) and of beta (the model's 1).
    """

    alpha: float
    sigma: float
    sample: float = 0.0
    original: float = 0.0
    epsilon: float = 0.0
    noise: float = 0.0
    history: tuple[float, ...] = ()
    churn: float = 0.0
    known: float = 0.0
    known_noise: float = 0.0
    log_variances: tuple[float, float] = (0.0, 0.0)


class DynamicThreshold(NamedTuple):
    """The clipping of Imagen (Saharia et al., 2022), see :func:`dynamic_threshold`."""

    ratio: float = 0.995
    max_value: float = 1.0


def _numbers(
    coefficients: StepCoefficients,
    prediction: str,
    variance: str | None,
    guidance: float | None,
    rescale: float,
    clip: float | tuple[float, float] | None,
    histories: int,
) -> tuple[float, ...]:
    """Checks the numbers of a step, and joins them: what the model predicts becomes weights of x and of its output."""
    if not isinstance(coefficients, StepCoefficients):
        raise TypeError(f"coefficients must be StepCoefficients, not {type(coefficients).__name__}")
    for name, value in coefficients._asdict().items():
        for i, each in enumerate(value if isinstance(value, tuple) else (value,)):
            number(f"coefficients.{name}{f'[{i}]' if isinstance(value, tuple) else ''}", each)
    if variance not in (None, "learned_range", "learned"):
        raise ValueError(f"variance must be None, 'learned_range' or 'learned', not {variance!r}")
    if len(coefficients.history) != histories or histories > MAX_HISTORY:
        raise ValueError(
            f"history must have as many tensors as coefficients.history has numbers, {len(coefficients.history)}, "
            f"and at most {MAX_HISTORY}, not {histories}"
        )
    if not 0 <= number("guidance_rescale", rescale) <= 1:
        raise ValueError(f"guidance_rescale must be 0 to 1, not {rescale}")
    most, ratio = math.inf, -1.0
    if isinstance(clip, tuple):
        ratio, most = clip
        check_threshold(ratio, most)
    elif clip is not None:
        most = number("clip", clip)
        if most <= 0:
            raise ValueError(f"clip must be greater than 0, not {clip}")

    c = coefficients
    from_sample, from_output = _weights_of_original(prediction, c.alpha, c.sigma)
    sample, output = float(c.sample), 0.0
    if c.epsilon:
        if prediction == "epsilon":
            output = c.epsilon
        elif c.sigma == 0:
            raise ValueError("coefficients.sigma must not be 0 where epsilon is not 0 and is not what is predicted")
        else:  # eps = (x - alpha x0) / sigma
            sample += c.epsilon * (1 - c.alpha * from_sample) / c.sigma
            output = -c.epsilon * c.alpha * from_output / c.sigma
    history1, history2, history3 = (*c.history, 0.0, 0.0, 0.0)[:MAX_HISTORY]
    numbers = Numbers(
        from_sample, from_output, sample, c.original, output, c.noise, c.churn, history1, history2, history3,
        c.known, c.known_noise, c.log_variances[0], c.log_variances[1],
        0.0 if guidance is None else number("guidance", guidance), 0.0 if guidance is None else rescale, most, ratio,
    )  # fmt: skip
    return tuple(map(float, numbers))


# A sampler comes by the same numbers for every picture.
_remembered = lru_cache(maxsize=8192)(_numbers)


def step_numbers(*args: Any) -> tuple[float, ...]:
    if torch.compiler.is_compiling():
        return _numbers(*args)
    try:
        return _remembered(*args)
    except TypeError:  # a number that cannot be hashed is none: let it be named
        return _numbers(*args)


def _weights_of_original(prediction: str, alpha: float, sigma: float) -> tuple[float, float]:
    """x0 = the first x + the second m"""
    if prediction == "sample":
        return 0.0, 1.0
    if prediction == "epsilon":
        if alpha == 0:
            raise ValueError("coefficients.alpha must not be 0 where the model predicts epsilon")
        return 1 / alpha, -sigma / alpha
    norm = math.hypot(alpha, sigma) if prediction == "v" else alpha + sigma
    if prediction not in ("v", "flow"):
        raise ValueError(f"prediction must be 'epsilon', 'sample', 'v' or 'flow', not {prediction!r}")
    if norm == 0:
        raise ValueError("coefficients.alpha and coefficients.sigma must not both be 0")
    return (alpha / norm**2, -sigma / norm) if prediction == "v" else (1 / norm, -sigma / norm)


def number(name: str, value: Any) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value}")
    return value


def check_threshold(ratio: Any, max_value: Any) -> None:
    if not 0 <= number("ratio", ratio) <= 1:
        raise ValueError(f"ratio must be 0 to 1, not {ratio}")
    if number("max_value", max_value) < 1:
        raise ValueError(f"max_value must be at least 1, not {max_value}")
