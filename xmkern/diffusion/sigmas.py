"""Schedulers that go by the place in a list of sigmas, and not by the time: Euler's and DPM-Solver."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmkern.diffusion.base import Scheduler, planned
from xmkern.diffusion.config import Config, chosen
from xmkern.diffusion.schedules import CURVES, Floats, times_of


class SigmaScheduler(Scheduler):
    """Counts its steps, from where the first one is found to be; x = alpha (x0 + sigma z) at each.

    Attributes:
        sigmas: [steps + 1], float32, descending.
        step_index: the place of the next step, None before the first one.
        begin_index: the place where to begin, if it was set.
    """

    sigmas: Tensor = planned("_sigmas_of_steps", "_sigmas")
    _sigmas: list[float]
    # Of which levels, and the table.
    _tabled: tuple[Tensor | None, Any] = (None, None)

    def _configure(self, own: Config) -> None:
        if sum(bool(own.get(name, False)) for name in CURVES) > 1:
            raise ValueError(f"only one of {', '.join(CURVES)} must be True")
        chosen("final_sigmas_type", own.get("final_sigmas_type", "zero"), "zero", "sigma_min")
        super()._configure(own)

    def _begin(self) -> None:
        super()._begin()
        if self._own.rescale_betas_zero_snr:
            least = torch.tensor([2.0**-24])  # a sigma that is not infinite
            self.alphas_cumprod = torch.cat([self.alphas_cumprod[:-1], least])
        self._follow(self._table[::-1])

    def restart(self) -> None:
        super().restart()
        self._step_index: int | None = None

    @property
    def _table(self) -> Floats:
        """The sigmas of training, in float32, as diffusers has it."""
        of, table = self._tabled
        if of is not self.alphas_cumprod:
            kept = self.alphas_cumprod.cpu()
            table = (((1 - kept) / kept) ** 0.5).numpy()
            self._tabled = self.alphas_cumprod, table
        return table

    def _follow(self, sigmas: Floats) -> None:
        """Goes by these sigmas, and then to the last one."""
        last = self._table[0] if self._own.get("final_sigmas_type", "zero") == "sigma_min" else 0.0
        self._set_sigmas(np.append(sigmas, last))

    def _set_sigmas(self, sigmas: Floats) -> None:
        self.sigmas = torch.from_numpy(sigmas.astype(np.float32))
        self._begin_index: int | None = None

    def _curve(self, low: float, high: float, steps: int) -> Floats | None:
        """Sigmas after a curve of their own, where the configuration says so."""
        for name, curve in CURVES.items():
            if self._own.get(name, False):
                return curve(low, high, steps)
        return None

    def _sigma_times(self, sigmas: Floats) -> Floats:
        return times_of(sigmas, np.log(self._table))

    def _one_of(self, **ways: Any) -> None:
        if sum(way is not None for way in ways.values()) != 1:
            raise ValueError(f"one of {', '.join(ways)} must be given, and only one")
        for name, least in ("timesteps", 1), ("sigmas", 2):
            if ways.get(name) is not None and len(ways[name]) < least:
                raise ValueError(f"{name} must be at least {least}, not {list(ways[name])}")

    def _no_curve(self, timesteps: Sequence[Any] | None) -> None:
        for name in (*CURVES, "use_lu_lambdas"):
            if timesteps is not None and self._own.get(name, False):
                raise ValueError(f"timesteps must not be given where {name} finds them")

    @property
    def step_index(self) -> int | None:
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Says which step will be the first, counted from 0: for what begins in the middle, as from a picture."""
        self._begin_index = begin_index

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        """The place of a time; the second one, where there are two, so that none is left out from the middle on."""
        t = self._time(timestep)
        times = self._times if schedule_timesteps is None else schedule_timesteps.tolist()
        places = [i for i, other in enumerate(times) if other == t][:2]
        return places[-1] if places else self._place(t)

    def _current(self, timestep: Any) -> int:
        """The place of the step to be made."""
        if self._step_index is None:
            begin = self._begin_index
            self._step_index = self.index_for_timestep(timestep) if begin is None else begin
        if not 0 <= self._step_index < len(self._sigmas) - 1:
            raise ValueError(
                f"timestep must be one of scheduler.timesteps, whose {len(self._sigmas) - 1} steps are all made: "
                "call set_timesteps before the next sample"
            )
        return self._step_index

    def _alpha_sigma(self, sigma: float) -> tuple[float, float]:
        """x = alpha x0 + sigma z"""
        return 1.0, sigma

    def _levels_at(self, x: Tensor, timesteps: Any) -> tuple[Tensor, Tensor]:
        """-> alpha and sigma, [B, 1, ...] as x"""
        times = torch.as_tensor(timesteps).flatten().tolist()
        if self._begin_index is None:
            places = [self.index_for_timestep(t) for t in times]
        else:
            places = [self._begin_index if self._step_index is None else self._step_index] * len(times)
        levels = torch.tensor([self._alpha_sigma(self._sigmas[place]) for place in places], dtype=torch.float64)
        levels = levels.to(x.device, x.dtype).view(-1, 2, *(1,) * (x.dim() - 1))
        return levels[:, 0], levels[:, 1]

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Samples at given times, alpha x0 + sigma noise; where ``set_begin_index`` was called, at the next step's.

        Args:
            original_samples: [B, ...].
            noise: as original_samples.
            timesteps: [B] or one for all, of ``self.timesteps``.
        """
        alpha, sigma = self._levels_at(original_samples, timesteps)
        return torch.addcmul(alpha * original_samples, sigma, noise)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        alpha, sigma = self._levels_at(sample, timesteps)
        return (alpha * noise - sigma * sample) / torch.hypot(alpha, sigma)
