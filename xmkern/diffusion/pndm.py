"""PNDM (Liu et al., 2022): multistep on DDIM's manifold, with Runge-Kutta steps to begin with."""

import math
from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from xmkern.diffusion.base import Fused, Plan, Scheduler, SchedulerOutput, planned
from xmkern.diffusion.config import configured
from xmkern.diffusion.schedules import spaced_times
from xmkern.functional import StepCoefficients

# Adams-Bashforth by how many predictions there are, the latest first.
MULTISTEP = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


class PNDMScheduler(Scheduler):
    """Three Runge-Kutta steps of four calls each, then one call a step; or multistep at once, as of Stable Diffusion.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, timestep_spacing, steps_offset: see
            :class:`DDPMScheduler`.
        skip_prk_steps: whether there are no Runge-Kutta steps.
        set_alpha_to_one: whether the last step ends at the original, or where the first time of training is.
        prediction_type: "epsilon" or "v_prediction".
    """

    final_alpha_cumprod: Tensor = planned("_final_alpha_cumprod", "_final")
    _final: float
    _predictions = ("epsilon", "v_prediction")

    @configured
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | np.ndarray | None = None,
        skip_prk_steps: bool = False,
        set_alpha_to_one: bool = False,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
    ) -> None:
        self._begin()
        self.final_alpha_cumprod = torch.ones(()) if set_alpha_to_one else self.alphas_cumprod[0]

    def restart(self) -> None:
        super().restart()
        self.counter = 0
        self.ets: list[Tensor] = []  # earlier predictions
        self._stages: list[Tensor] = []  # those of the Runge-Kutta step that is under way
        self.cur_sample: Tensor | None = None  # where it began

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Says how many steps will be made; the model is called more often, once for each of ``timesteps``."""
        c = self._own
        num_inference_steps = self.num_inference_steps = self._checked_steps(num_inference_steps)
        if num_inference_steps < 4 and not c.skip_prk_steps:
            raise ValueError(f"num_inference_steps must be at least 4 for Runge-Kutta steps, not {num_inference_steps}")
        times = spaced_times(c.timestep_spacing, num_inference_steps, c.num_train_timesteps, c.steps_offset).round()
        if c.skip_prk_steps:
            runge_kutta = times[:0]
            multistep = np.concatenate([times[:2], times[1:2], times[2:]]) if len(times) > 1 else times
        else:
            # Of a step the middle is seen twice, and its end once more, where the next one begins.
            half = c.num_train_timesteps // num_inference_steps // 2
            points = np.stack([times[:4] + half, times[:4]], 1).flatten()[1:]
            runge_kutta = points.repeat(2)[1:-1]
            multistep = times[3:]
        self.prk_timesteps = runge_kutta.astype(np.int64)
        self.plms_timesteps = multistep.astype(np.int64)
        self._set_out(torch.from_numpy(np.concatenate([self.prk_timesteps, self.plms_timesteps])).to(device))

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
        **fused: Unpack[Fused],
    ) -> SchedulerOutput | tuple[Tensor]:
        """From ``timestep`` to the next one; see :meth:`DDPMScheduler.step`."""
        t = self._checked_time(self._time(timestep))
        if self.num_inference_steps is not None and self.counter < len(self.prk_timesteps):
            return self.step_prk(model_output, t, sample, return_dict, **fused)
        return self.step_plms(model_output, t, sample, return_dict, **fused)

    def step_prk(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
        **fused: Unpack[Fused],
    ) -> SchedulerOutput | tuple[Tensor]:
        """One of the four stages of a Runge-Kutta step, each from where the step began."""
        t, stage = self._time(timestep), self.counter % 4
        if stage == 0:
            self._stages, self.cur_sample = [], self._start_of(sample, fused)
        assert self.cur_sample is not None
        start = int(self.prk_timesteps[self.counter - stage])
        half = self._stride // 2
        weights = RUNGE_KUTTA[::-1] if stage == 3 else (1.0,)
        previous, output = self._pndm(
            start,
            t if stage % 2 else t - half,
            weights,
            model_output,
            self.cur_sample,
            tuple(self._stages[::-1]),
            fused,
        )
        self._stages.append(output)
        if stage == 0:
            self.ets.append(output)
        self.counter += 1
        return SchedulerOutput(previous) if return_dict else (previous,)

    def step_plms(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
        **fused: Unpack[Fused],
    ) -> SchedulerOutput | tuple[Tensor]:
        """A multistep step. Where no Runge-Kutta came before, the second one makes the first again, and better."""
        t, stride = self._time(timestep), self._stride
        again = self.counter == 1
        if self.counter == 0:
            self.cur_sample = self._start_of(sample, fused)
        earlier = tuple(self.ets[:-4:-1])
        if again:
            assert self.cur_sample is not None
            sample = self.cur_sample
            previous, _ = self._pndm(t + stride, t, (0.5, 0.5), model_output, sample, earlier, fused)
        else:
            weights = MULTISTEP[len(earlier) + 1]
            previous, output = self._pndm(t, t - stride, weights, model_output, sample, earlier, fused)
            self.ets = [*self.ets[-3:], output]
        self.counter += 1
        return SchedulerOutput(previous) if return_dict else (previous,)

    @staticmethod
    def _start_of(sample: Tensor, fused: Fused) -> Tensor:
        """The sample, kept from being written to."""
        return sample if fused.get("out") is None else sample.clone()

    def _pndm(
        self,
        t: int,
        previous: int,
        weights: tuple[float, ...],
        model_output: Tensor,
        sample: Tensor,
        earlier: tuple[Tensor, ...],
        fused: Fused,
    ) -> tuple[Tensor, Tensor]:
        """-> the sample at the time ``previous``, and the model's output, guided, to be kept"""
        plan = self._planned_step(t, previous, weights)
        # Without "out" it is left as it is, as diffusers leaves it; with it, it may be the sample, or a model's memory.
        keep = fused.get("guidance_scale") is not None
        if fused.get("out") is not None:
            keep = True
            memory = torch.empty_like(sample, memory_format=torch.contiguous_format)
            fused["out"] = fused["out"][0], memory  # type: ignore[index]
        result, output = self._step(plan, model_output, sample, history=earlier[: len(weights) - 1], keep=keep, **fused)
        return result, model_output if output is None else output

    def _plan(self, t: int, previous: int, weights: tuple[float, ...]) -> Plan:
        """Equation 9 of the paper, which is DDIM's step written without x0, with eps the weighted predictions."""
        kept, before = self._kept[self._checked_time(t)], self._kept[previous] if previous >= 0 else self._final
        alpha, sigma = math.sqrt(kept), math.sqrt(1 - kept)
        of_eps = (kept - before) / (kept * math.sqrt(1 - before) + math.sqrt(kept * (1 - kept) * before))
        of_sample = math.sqrt(before / kept)
        if self._prediction == "v":  # eps = alpha v + sigma x
            of_sample, of_eps = of_sample + of_eps * sigma, of_eps * alpha
        first, *rest = (weight * of_eps for weight in weights)
        # As "sample" the kernel takes the output for what it is.
        return Plan(StepCoefficients(alpha, sigma, of_sample, first, history=tuple(rest)), "sample")
