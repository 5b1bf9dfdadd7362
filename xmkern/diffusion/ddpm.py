"""DDPM (Ho et al., 2020), with learned variances (Nichol and Dhariwal, 2021) and dynamic thresholding (Imagen)."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from torch import Tensor

from xmkern.diffusion.base import LEARNED, Fused, Generator, Plan, Scheduler, SchedulerOutput
from xmkern.diffusion.config import Config, chosen, configured
from xmkern.diffusion.schedules import spaced_times
from xmkern.functional import StepCoefficients

FIXED = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")


class DDPMScheduler(Scheduler):
    """Ancestral sampling: each step draws from the posterior q(x_prev | x_t, x0), x0 being predicted.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the noise of training; schedules are
            "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid" and "laplace".
        variance_type: "fixed_small" (the posterior's), "fixed_large" (beta), either with "_log", "learned" or
            "learned_range" (the model's output has twice the channels).
        clip_sample, clip_sample_range: whether x0 is clamped to [-range, range].
        prediction_type: "epsilon", "sample" or "v_prediction".
        thresholding, dynamic_thresholding_ratio, sample_max_value: instead, how x0 is thresholded dynamically.
        timestep_spacing: "linspace", "leading" or "trailing".
        steps_offset: added to "leading" times.
        rescale_betas_zero_snr: whether the last time keeps nothing of the original.
    """

    # Of solvers that have no variance.
    _synonyms: ClassVar[dict[str, dict[Any, Any]]] = {"variance_type": {None: "fixed_small"}}
    _variances: tuple[str, ...] = (*FIXED, *LEARNED)

    @configured
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | np.ndarray | None = None,
        variance_type: str = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        self.custom_timesteps = False
        self._begin()

    def _configure(self, own: Config) -> None:
        variance = chosen("variance_type", own.variance_type, *self._variances)
        super()._configure(own)
        self.variance_type = variance

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Says how many steps will be made, or with ``timesteps``, descending, which."""
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("num_inference_steps or timesteps must be given, and not both")
        self.custom_timesteps = timesteps is not None
        if timesteps is not None:
            times = np.asarray(timesteps)
            if not len(times) or (np.diff(times) >= 0).any() or times[0] >= len(self._kept) or times[-1] < 0:
                raise ValueError(f"timesteps must descend from at most {len(self._kept) - 1}, not be {list(timesteps)}")
        else:
            c = self._own
            self.num_inference_steps = self._checked_steps(num_inference_steps)
            times = spaced_times(
                c.timestep_spacing, self.num_inference_steps, c.num_train_timesteps, c.steps_offset
            ).round()
        self._set_out(torch.from_numpy(times.astype(np.int64)).to(device))

    def previous_timestep(self, timestep: int | Tensor) -> int:
        """The time after ``timestep``; -1 after the last one."""
        t = self._time(timestep)
        place = self._place(t) + 1
        return self._times[place] if place < len(self._times) else -1

    def _plan(self, t: int) -> Plan:
        previous = self.previous_timestep(t)
        kept, before = self._kept[self._checked_time(t)], self._kept[previous] if previous >= 0 else 1.0
        return self._posterior(t, before, 1 - kept / before)

    def _posterior(self, t: int, before: float, beta: float) -> Plan:
        """The step to where ``before`` is kept of the original's variance, ``beta`` being what is added from there."""
        kept = self._kept[t]
        variance = max((1 - before) / (1 - kept) * beta, 1e-20)
        kind = self.variance_type
        learned = kind in LEARNED
        noise = 1.0 if learned else math.sqrt(beta if "large" in kind else variance)
        alpha, sigma = self._levels(t)
        coefficients = StepCoefficients(
            alpha,
            sigma,
            sample=math.sqrt(1 - beta) * (1 - before) / (1 - kept),
            original=math.sqrt(before) * beta / (1 - kept),
            noise=noise if t > 0 else 0.0,
            log_variances=(math.log(variance), math.log(max(beta, 1e-20))),
        )
        return Plan(coefficients, self._prediction, self._clip(), kind if learned else None, t > 0)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generator | None = None,
        return_dict: bool = True,
        variance_noise: Tensor | None = None,
        **fused: Unpack[Fused],
    ) -> SchedulerOutput | tuple[Tensor, Any]:
        """From ``timestep`` to the one after it.

        Args:
            model_output: [B, C, ...]; [B, 2 C, ...] where the variance is learned.
            timestep: one of ``timesteps``.
            sample: [B, C, ...].
            generator: of the noise, or one for each sample; by default torch's.
            return_dict: whether a SchedulerOutput is returned and not a tuple.
            variance_noise: the noise itself, as sample.
            fused: see :class:`Fused`.

        Returns:
            The sample at the time after, and the predicted original.
        """
        plan = self._planned_step(self._time(timestep))
        result = self._step(plan, model_output, sample, generator, variance_noise, **fused)
        return SchedulerOutput(*result) if return_dict else result
