"""The scheduler of unCLIP (Ramesh et al., 2022) as Karlo has it."""

from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from torch import Tensor

from xmkern.diffusion.base import Fused, Generator, Plan, SchedulerOutput, planned
from xmkern.diffusion.config import Config, chosen, configured
from xmkern.diffusion.ddpm import DDPMScheduler


class UnCLIPScheduler(DDPMScheduler):
    """DDPM whose caller says which time comes after, with times spread from the first to the last of training.

    Args:
        num_train_timesteps: of the cosine schedule.
        variance_type: "fixed_small_log" or "learned_range" (the model's output has twice the channels).
        clip_sample, clip_sample_range: whether x0 is clamped to [-range, range].
        prediction_type: "epsilon" or "sample".
        beta_schedule: "squaredcos_cap_v2".
    """

    betas: Tensor = planned("_betas", "_beta")
    _beta: list[float]
    _synonyms: ClassVar[dict[str, dict[Any, Any]]] = {}
    _variances = ("fixed_small_log", "learned_range")
    _predictions = ("epsilon", "sample")

    @configured
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        variance_type: str = "fixed_small_log",
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
        prediction_type: str = "epsilon",
        beta_schedule: str = "squaredcos_cap_v2",
    ) -> None:
        self._begin()

    def _configure(self, own: Config) -> None:
        chosen("beta_schedule", own.beta_schedule, "squaredcos_cap_v2")
        super()._configure(own)

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:  # type: ignore[override]
        """Says how many steps will be made, at least two."""
        steps = self._checked_steps(num_inference_steps)
        if steps < 2:
            raise ValueError("num_inference_steps must be at least 2: they reach from the last time to the first")
        self.num_inference_steps = steps
        ratio = (self._own.num_train_timesteps - 1) / (steps - 1)
        times = (np.arange(steps) * ratio).round()[::-1].astype(np.int64)
        self._set_out(torch.from_numpy(times).to(device))

    def _plan(self, t: int, previous: int) -> Plan:  # type: ignore[override]
        self._checked_time(t)
        if not previous < t:
            raise ValueError(f"prev_timestep must be less than timestep, {t}, not {previous}")
        before = self._kept[previous] if previous >= 0 else 1.0
        return self._posterior(t, before, self._beta[t] if previous == t - 1 else 1 - self._kept[t] / before)

    def step(  # type: ignore[override]
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        prev_timestep: int | Tensor | None = None,
        generator: Generator | None = None,
        return_dict: bool = True,
        variance_noise: Tensor | None = None,
        **fused: Unpack[Fused],
    ) -> SchedulerOutput | tuple[Tensor, Any]:
        """From ``timestep`` to ``prev_timestep``, by default the one before it in training; see
        :meth:`DDPMScheduler.step`."""
        t = self._time(timestep)
        plan = self._planned_step(t, t - 1 if prev_timestep is None else self._time(prev_timestep))
        result = self._step(plan, model_output, sample, generator, variance_noise, **fused)
        return SchedulerOutput(*result) if return_dict else result
