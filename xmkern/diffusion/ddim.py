"""DDIM (Song et al., 2021): from no noise at all, eta = 0, to that of DDPM, eta = 1."""

import math
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from xmkern.diffusion.base import Fused, Generator, Plan, Scheduler, SchedulerOutput, planned
from xmkern.diffusion.config import configured
from xmkern.diffusion.schedules import spaced_times
from xmkern.functional import StepCoefficients


class DDIMScheduler(Scheduler):
    """x_prev = sqrt(abar_prev) x0 + sqrt(1 - abar_prev - s^2) eps + s z, s being eta times the posterior's deviation.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, clip_sample, clip_sample_range,
            prediction_type, thresholding, dynamic_thresholding_ratio, sample_max_value, timestep_spacing, steps_offset,
            rescale_betas_zero_snr: see :class:`DDPMScheduler`.
        set_alpha_to_one: whether the last step ends at the original, or where the first time of training is.
    """

    final_alpha_cumprod: Tensor = planned("_final_alpha_cumprod", "_final")
    _final: float

    @configured
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | np.ndarray | None = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        self._begin()
        self.final_alpha_cumprod = torch.ones(()) if set_alpha_to_one else self.alphas_cumprod[0]

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Says how many steps will be made."""
        c = self._own
        steps = self.num_inference_steps = self._checked_steps(num_inference_steps)
        times = spaced_times(c.timestep_spacing, steps, c.num_train_timesteps, c.steps_offset).round()
        self._set_out(torch.from_numpy(times.astype(np.int64)).to(device))

    def _neighbours(self, t: Any) -> tuple[float, float]:
        """What is kept of the original's variance at a time, and after a step from there."""
        previous = self._checked_time(t) - self._stride
        return self._kept[t], self._kept[previous] if previous >= 0 else self._final

    def _plan(self, t: int, eta: float, clipped: bool) -> Plan:
        kept, before = self._neighbours(t)
        variance = eta**2 * (1 - before) / (1 - kept) * (1 - kept / before)
        left = 1 - before - variance
        if not (eta >= 0 and left > -1e-15):  # by rounding it may be less than 0
            raise ValueError(f"eta must be 0 to 1, with noise of no more than is in the sample after, not {eta}")
        alpha, sigma = self._levels(t)
        deviation = math.sqrt(variance)
        x0, eps = math.sqrt(before), math.sqrt(max(left, 0))
        if clipped:  # eps = (x - alpha x0) / sigma of the clipped x0
            coefficients = StepCoefficients(
                alpha, sigma, sample=eps / sigma, original=x0 - eps * alpha / sigma, noise=deviation
            )
        else:
            coefficients = StepCoefficients(alpha, sigma, original=x0, epsilon=eps, noise=deviation)
        return Plan(coefficients, self._prediction, self._clip(), draws=eta > 0)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Generator | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        **fused: Unpack[Fused],
    ) -> SchedulerOutput | tuple[Tensor, Any]:
        """From ``timestep`` to the one after it; see :meth:`DDPMScheduler.step`.

        Args:
            eta: how much noise is added, 0 to 1.
            use_clipped_model_output: whether the noise is that which leads to the clipped x0 (as GLIDE has it).
        """
        if generator is not None and variance_noise is not None:
            raise ValueError("generator and variance_noise must not both be given")
        plan = self._planned_step(self._time(timestep), eta, use_clipped_model_output)
        result = self._step(plan, model_output, sample, generator, variance_noise, **fused)
        return SchedulerOutput(*result) if return_dict else result
