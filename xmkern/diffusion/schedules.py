"""Of what schedulers are made before any sample is seen: the betas of training, and the times and sigmas of sampling.

Everything is computed in the precision in which diffusers computes it, so that tables and times are the same numbers.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xmkern.diffusion.config import chosen

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")
SPACINGS = ("linspace", "leading", "trailing")

Floats = NDArray[np.floating]


def betas(schedule: str, T: int, start: float, end: float, trained: Sequence[float] | np.ndarray | None) -> Tensor:
    """beta [T] in float32: the variance added at each time of training."""
    if not isinstance(T, int | np.integer) or T < 1:
        raise ValueError(f"num_train_timesteps must be an integer of at least 1, not {T!r}")
    if trained is not None:
        given = torch.as_tensor(trained, dtype=torch.float32).clone()
        if given.shape != (T,) or not ((given > 0) & (given <= 1)).all():
            raise ValueError(f"trained_betas must be {T} (num_train_timesteps) numbers over 0 and up to 1")
        return given
    chosen("beta_schedule", schedule, *SCHEDULES)
    if schedule == "linear":  # Ho et al., 2020
        return torch.linspace(start, end, T)
    if schedule == "scaled_linear":  # latent diffusion: linear in the deviation
        return torch.linspace(start**0.5, end**0.5, T) ** 2
    if schedule == "sigmoid":  # GeoDiff
        return torch.sigmoid(torch.linspace(-6, 6, T)) * (end - start) + start
    kept = _cosine if schedule == "squaredcos_cap_v2" else _laplace
    return torch.tensor([min(1 - kept((t + 1) / T) / kept(t / T), 0.999) for t in range(T)])


def _cosine(t: float) -> float:
    """abar at t in 0 to 1 (Nichol and Dhariwal, 2021)."""
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace(t: float) -> float:
    """The square root of abar where half the logarithm of signal to noise follows Laplace's distribution (Hang et al.,
    2024)."""
    half_log_snr = -math.copysign(0.5, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6)
    return math.sqrt(1 / (1 + math.exp(-half_log_snr)))


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """Shifts and scales sqrt(abar) so that nothing of the original is left at the last time (Lin et al., 2024,
    algorithm 1)."""
    signal = (1 - betas).cumprod(0).sqrt()
    first, last = signal[0].clone(), signal[-1].clone()
    signal -= last
    signal *= first / (first - last)
    kept = signal**2
    return 1 - torch.cat([kept[:1], kept[1:] / kept[:-1]])


def spaced_times(spacing: str, steps: int, T: int, offset: int = 0, *, last: int | None = None) -> Floats:
    """The times of ``steps`` steps, descending, not yet rounded where "linspace" (Lin et al., 2024, table 2).

    Args:
        last: the time after the first, T unless the noisiest times are left out.
    """
    last = T if last is None else last
    chosen("timestep_spacing", spacing, *SPACINGS)
    if spacing == "linspace":
        return np.linspace(0, last - 1, steps)[::-1]
    if spacing == "leading":
        return (np.arange(steps) * (last // steps))[::-1].astype(np.float64) + offset
    return np.arange(last, 0, -T / steps)[:steps].round() - 1  # may have one too many by rounding


def karras_sigmas(low: float, high: float, steps: int, rho: float = 7.0) -> Floats:
    """Evenly spaced after the root of order rho (Karras et al., 2022, equation 5)."""
    return np.linspace(high ** (1 / rho), low ** (1 / rho), steps) ** rho


def exponential_sigmas(low: float, high: float, steps: int) -> Floats:
    return np.exp(np.linspace(math.log(high), math.log(low), steps))


def beta_sigmas(low: float, high: float, steps: int) -> Floats:
    """Quantiles of the beta distribution with both parameters 0.6 (Lee et al., 2024)."""
    try:
        from scipy.stats import beta
    except ImportError:
        raise ImportError("use_beta_sigmas needs scipy: pip install scipy") from None
    return low + beta.ppf(1 - np.linspace(0, 1, steps), 0.6, 0.6) * (high - low)


CURVES: dict[str, Callable[[float, float, int], Floats]] = {
    "use_karras_sigmas": karras_sigmas,
    "use_exponential_sigmas": exponential_sigmas,
    "use_beta_sigmas": beta_sigmas,
}


def times_of(sigmas: Floats, log_table: Floats) -> Floats:
    """The times, between those of training, at which the noise has these sigmas. ``log_table`` [T] ascends, but for its
    end, where a sigma may have been infinite."""
    logs = np.log(np.maximum(sigmas, 1e-10))
    reached = logs[:, None] >= log_table
    low = np.where(reached.any(1), len(log_table) - 1 - reached[:, ::-1].argmax(1), 0).clip(max=len(log_table) - 2)
    return low + ((logs - log_table[low]) / (log_table[low + 1] - log_table[low])).clip(0, 1)
