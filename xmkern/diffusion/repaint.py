"""RePaint (Lugmayr et al., 2022): inpainting by a model that was not trained for it."""

import math
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from xmkern.diffusion.base import Fused, Generator, Plan, SchedulerOutput
from xmkern.diffusion.config import configured
from xmkern.diffusion.ddim import DDIMScheduler
from xmkern.functional import StepCoefficients


class RePaintScheduler(DDIMScheduler):
    """DDIM that at each step puts in what is known, noised to that time, and that jumps back in time to harmonise.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: see :class:`DDPMScheduler`.
        eta: how much noise is added, 0 to 1.
        clip_sample: whether x0 is clamped to [-1, 1].
    """

    @configured
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        eta: float = 0.0,
        trained_betas: Sequence[float] | np.ndarray | None = None,
        clip_sample: bool = True,
    ) -> None:
        self.eta = eta
        self._begin()
        self.final_alpha_cumprod = torch.ones(())

    def set_timesteps(  # type: ignore[override]
        self,
        num_inference_steps: int,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        device: torch.device | str | None = None,
    ) -> None:
        """Says how many steps will be made, and how often the way is made again.

        Args:
            jump_length: how many steps a jump leads back, "j" of the paper.
            jump_n_sample: how often each stretch of that length is passed, "r" of the paper.
        """
        if jump_length < 1 or jump_n_sample < 1:
            raise ValueError(f"jump_length and jump_n_sample must be at least 1, not {jump_length} and {jump_n_sample}")
        most = self._own.num_train_timesteps
        steps = self.num_inference_steps = self._checked_steps(min(num_inference_steps, most))
        jumps = dict.fromkeys(range(0, steps - jump_length, jump_length), jump_n_sample - 1)
        times: list[int] = []
        t = steps
        while t > 0:
            t -= 1
            times.append(t)
            if jumps.get(t, 0) > 0:
                jumps[t] -= 1
                times.extend(range(t + 1, t + jump_length + 1))
                t += jump_length
        self._set_out(torch.tensor(times, device=device) * (most // steps))

    def _plan(self, t: int, eta: float, clipped: bool = False) -> Plan:
        plan = super()._plan(t, eta, False)
        before = self._neighbours(t)[1]
        coefficients = plan.coefficients._replace(known=math.sqrt(before), known_noise=math.sqrt(1 - before))
        if t == 0:
            coefficients = coefficients._replace(noise=0.0)
        return plan._replace(coefficients=coefficients, draws=True)

    def step(  # type: ignore[override]
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        original_image: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
        return_dict: bool = True,
        variance_noise: Tensor | None = None,
        **fused: Unpack[Fused],
    ) -> SchedulerOutput | tuple[Tensor, Any]:
        """From ``timestep`` to the one before it; see :meth:`DDPMScheduler.step`.

        Args:
            original_image: broadcasts to sample; what is known of the original.
            mask: broadcasts to sample, bool or of its dtype; 1 where the image is known, 0 where it is painted.
        """
        plan = self._planned_step(self._time(timestep), self.eta)
        result = self._step(
            plan, model_output, sample, generator, variance_noise, known=original_image, mask=mask, **fused
        )
        return SchedulerOutput(*result) if return_dict else result

    def undo_step(
        self,
        sample: Tensor,
        timestep: int | Tensor,
        generator: Generator | None = None,
        *,
        seed: int | None = None,
    ) -> Tensor:
        """From ``timestep`` one step forward in time, by adding noise.

        Of torch, the noise of each time of training is drawn, as diffusers draws it; of a seed, that of all at once.
        """
        t = self._checked_time(self._time(timestep))
        betas = self.betas[t : t + self._stride].tolist()
        if seed is None and generator is None:
            seed = self.seed
        if seed is not None:
            betas = [1 - math.prod(1 - beta for beta in betas)]
        for beta in betas:
            coefficients = StepCoefficients(1.0, 0.0, sample=math.sqrt(1 - beta), noise=math.sqrt(beta))
            plan = Plan(coefficients, "sample", draws=True)
            sample = self._step(plan, sample, sample, generator, keep=False, seed=seed)[0]
        return sample
