"""Euler's method on the derivative of x by sigma (Karras et al., 2022), without and with fresh noise."""

import math
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from xmkern.diffusion.base import Fused, Generator, Plan, SchedulerOutput
from xmkern.diffusion.config import Config, chosen, configured
from xmkern.diffusion.schedules import exponential_sigmas, spaced_times
from xmkern.diffusion.sigmas import SigmaScheduler
from xmkern.functional import StepCoefficients


class _Euler(SigmaScheduler):
    """x = x0 + sigma z, of which the model sees x / sqrt(sigma^2 + 1)."""

    _as_output = True

    @property
    def init_noise_sigma(self) -> float:  # type: ignore[override]
        most = max(self._sigmas)
        return most if self._own.timestep_spacing in ("linspace", "trailing") else math.hypot(most, 1)

    def _spaced(self, steps: int) -> np.ndarray:
        c = self._own
        return spaced_times(c.timestep_spacing, steps, c.num_train_timesteps, c.steps_offset).astype(np.float32)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the model should see of a sample: x / sqrt(sigma^2 + 1), of variance 1."""
        return sample / math.hypot(self._sigmas[self._current(timestep)], 1)

    def _along(
        self, sigma: float, to: float, noise: float = 0.0, churned: float | None = None, churn: float = 0.0
    ) -> Plan:
        """x + (x - x0) / s (to - s) + noise z, with s = sigma, or where churn z comes first, ``churned``."""
        s = sigma if churned is None else churned
        if self._prediction == "epsilon":
            coefficients = StepCoefficients(1.0, s, sample=1.0, epsilon=to - s, noise=noise, churn=churn)
        else:
            share = to / s
            coefficients = StepCoefficients(1.0, sigma, sample=share, original=1 - share, noise=noise, churn=churn)
        return Plan(coefficients, self._prediction, draws=noise > 0 or churn > 0)

    def _counted(self, result: tuple[Tensor, Tensor | None], return_dict: bool) -> SchedulerOutput | tuple[Tensor, Any]:
        assert self._step_index is not None
        self._step_index += 1
        return SchedulerOutput(*result) if return_dict else result

    def _stepped(self, timestep: Any) -> int:
        """The place of the step to be made, which a step, unlike ``scale_model_input``, is not asked for by a count."""
        if isinstance(timestep, int) or (isinstance(timestep, Tensor) and not timestep.is_floating_point()):
            raise ValueError(f"timestep must be one of scheduler.timesteps, not a count of steps, {timestep}")
        return self._current(timestep)


class EulerDiscreteScheduler(_Euler):
    """Euler's method, and with ``s_churn`` the stochastic sampler of Karras et al., 2022 (algorithm 2, first order).

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type, timestep_spacing,
            steps_offset, rescale_betas_zero_snr: see :class:`DDPMScheduler`.
        interpolation_type: of the sigmas between those of training, "linear" or "log_linear".
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: at most one; how sigmas are spread instead.
        sigma_min, sigma_max: between what, then.
        timestep_type: "discrete", or "continuous": with "v_prediction" a model is called with log(sigma) / 4.
        final_sigmas_type: "zero", or "sigma_min" as at the first time of training.
    """

    @configured
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | np.ndarray | None = None,
        prediction_type: str = "epsilon",
        interpolation_type: str = "linear",
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        timestep_spacing: str = "linspace",
        timestep_type: str = "discrete",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        final_sigmas_type: str = "zero",
    ) -> None:
        self._begin()
        self._set_times(np.arange(num_train_timesteps)[::-1])

    def _configure(self, own: Config) -> None:
        chosen("interpolation_type", own.interpolation_type, "linear", "log_linear")
        chosen("timestep_type", own.timestep_type, "discrete", "continuous")
        super()._configure(own)

    def _set_times(self, times: np.ndarray, device: torch.device | str | None = None) -> None:
        if self._continuous():
            times = 0.25 * np.log(np.array(self._sigmas[:-1]))
        self._set_out(torch.from_numpy(times.astype(np.float32)).to(device))

    def _continuous(self) -> bool:
        return self._own.timestep_type == "continuous" and self._prediction == "v"

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> None:
        """Says how many steps will be made, or at which times, or by which sigmas, the last one (0) included."""
        self._one_of(num_inference_steps=num_inference_steps, timesteps=timesteps, sigmas=sigmas)
        self._no_curve(timesteps)
        if timesteps is not None and self._continuous():
            raise ValueError("timesteps must not be given where timestep_type is 'continuous': they are of the sigmas")
        if sigmas is not None:
            given = np.asarray(sigmas, np.float32)
            self.num_inference_steps = len(given) - 1
            self._set_sigmas(given)
            self._set_times(self._sigma_times(given[:-1]), device)
            return
        c, table = self._own, self._table
        if timesteps is None:
            steps = self._checked_steps(num_inference_steps)
            times = self._spaced(steps)
        else:
            steps, times = len(timesteps), np.asarray(timesteps, np.float32)
        self.num_inference_steps = steps
        if c.interpolation_type == "linear":
            found = np.interp(times, np.arange(len(table)), table)
        else:
            found = exponential_sigmas(table[0], table[-1], steps + 1)
        low, high = (given if given is not None else float(end) for given, end in
                     ((c.sigma_min, found[-1]), (c.sigma_max, found[0])))  # fmt: skip
        curve = self._curve(low, high, steps)
        if curve is not None:
            found, times = curve, self._sigma_times(curve)
        self._follow(found)
        self._set_times(times, device)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: Generator | None = None,
        return_dict: bool = True,
        variance_noise: Tensor | None = None,
        **fused: Unpack[Fused],
    ) -> SchedulerOutput | tuple[Tensor, Any]:
        """From one sigma to the next; see :meth:`DDPMScheduler.step`.

        Args:
            timestep: one of ``timesteps``; read at the first step, from where steps are counted.
            s_churn, s_tmin, s_tmax, s_noise: how much noise is added before the step, between which sigmas, and times
                what.
        """
        plan = self._planned_step(self._stepped(timestep), s_churn, s_tmin, s_tmax, s_noise)
        return self._counted(self._step(plan, model_output, sample, generator, variance_noise, **fused), return_dict)

    def _plan(self, place: int, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float) -> Plan:
        sigma, to = self._sigmas[place : place + 2]
        gamma = min(s_churn / (len(self._sigmas) - 1), math.sqrt(2) - 1) if s_tmin <= sigma <= s_tmax else 0.0
        if gamma <= 0:
            return self._along(sigma, to)
        churned = sigma * (gamma + 1)
        return self._along(sigma, to, churned=churned, churn=s_noise * math.sqrt(churned**2 - sigma**2))


class EulerAncestralDiscreteScheduler(_Euler):
    """Euler's method to less noise than is wanted, of which the rest is added afresh.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type, timestep_spacing,
            steps_offset, rescale_betas_zero_snr: see :class:`DDPMScheduler`.
    """

    @configured
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | np.ndarray | None = None,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        self._begin()
        self._set_out(torch.arange(num_train_timesteps - 1.0, -1, -1))

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Says how many steps will be made."""
        self.num_inference_steps = self._checked_steps(num_inference_steps)
        times, table = self._spaced(self.num_inference_steps), self._table
        self._follow(np.interp(times, np.arange(len(table)), table))
        self._set_out(torch.from_numpy(times).to(device))

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generator | None = None,
        return_dict: bool = True,
        variance_noise: Tensor | None = None,
        **fused: Unpack[Fused],
    ) -> SchedulerOutput | tuple[Tensor, Any]:
        """From one sigma to the next; see :meth:`DDPMScheduler.step`.

        Args:
            timestep: one of ``timesteps``; read at the first step, from where steps are counted.
        """
        plan = self._planned_step(self._stepped(timestep))
        return self._counted(self._step(plan, model_output, sample, generator, variance_noise, **fused), return_dict)

    def _plan(self, place: int) -> Plan:
        sigma, to = self._sigmas[place : place + 2]
        up = math.sqrt(to**2 * (sigma**2 - to**2) / sigma**2)
        return self._along(sigma, math.sqrt(to**2 - up**2), noise=up)._replace(draws=True)
