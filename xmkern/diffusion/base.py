"""What all schedulers share: tables, times, noise, and the one call that makes a step."""

import math
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from xmkern.diffusion.config import Configured, chosen
from xmkern.diffusion.schedules import betas, zero_terminal_snr
from xmkern.functional import DynamicThreshold, StepCoefficients, diffusion_step, q_sample

Generator = torch.Generator | list[torch.Generator]
Clip = float | DynamicThreshold | None

PREDICTIONS = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v", "flow_prediction": "flow"}
LEARNED = ("learned", "learned_range")


class SchedulerOutput(NamedTuple):
    """What a step returns: the sample at the earlier time, and the original that was predicted, clipped."""

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None


class Fused(TypedDict, total=False):
    """What every ``step`` takes by name besides what diffusers has.

    Args:
        seed: an integer: noise is drawn inside the kernel (:func:`xmkern.functional.philox_normal`), each step where
            the last one stopped. By default ``scheduler.seed``, unless a generator is given.
        guidance_scale: ``model_output`` is [2 B, ...], without the condition and with it, and is guided without a
            classifier.
        guidance_rescale: see :func:`xmkern.functional.diffusion_step`.
        out: (previous, original or None): contiguous tensors, which are written and returned; the first may be
            ``sample``.
    """

    seed: int | None
    guidance_scale: float | None
    guidance_rescale: float
    out: tuple[Tensor, Tensor | None] | None


class Plan(NamedTuple):
    """A step but for its tensors: made once for each time."""

    coefficients: StepCoefficients
    prediction: str = "epsilon"
    clip: Clip = None
    variance: str | None = None
    draws: bool = False  # as diffusers draws noise, so that a generator stands where it would stand there


class Scheduler(Configured):
    """The base of all schedulers.

    Attributes:
        timesteps: [steps], descending (but for RePaint): what to call the model and ``step`` with, in order.
        num_inference_steps: how many, after ``set_timesteps``.
        init_noise_sigma: the deviation of the noise that sampling begins with.
        betas, alphas, alphas_cumprod: [num_train_timesteps], float32.
        seed: where set, noise is drawn inside the kernel from it (see :class:`Fused`).
    """

    order = 1
    init_noise_sigma = 1.0

    def _begin(self, predictions: tuple[str, ...] = ("epsilon", "sample", "v_prediction")) -> None:
        """Makes the tables; the first thing that a constructor does."""
        c = self.config
        chosen("prediction_type", c.get("prediction_type", "epsilon"), *predictions)
        self.betas = betas(
            c.beta_schedule,
            c.num_train_timesteps,
            c.get("beta_start", 0.0001),
            c.get("beta_end", 0.02),
            c.get("trained_betas"),
        )
        if c.get("rescale_betas_zero_snr", False):
            self.betas = zero_terminal_snr(self.betas)
        self.alphas = 1 - self.betas
        self.alphas_cumprod = self.alphas.cumprod(0)
        self._kept: list[float] = self.alphas_cumprod.tolist()
        self._prediction = PREDICTIONS[c.get("prediction_type", "epsilon")]
        self.seed: int | None = None
        self.num_inference_steps: int | None = None
        self._plans: dict[Any, Plan] = {}
        self._planned: tuple[Any, ...] = ()
        self._restart(torch.arange(len(self.betas) - 1, -1, -1))

    def _restart(self, timesteps: Tensor) -> None:
        """Begins a new picture; what was planned for the last one holds if it goes the same way."""
        self.timesteps = timesteps
        self._drawn = 0
        planned = self.config, self.num_inference_steps, self._way()
        if planned != self._planned:
            self._plans, self._planned = {}, planned

    def _way(self) -> list[Any]:
        """What steps are planned by, besides the configuration."""
        return self._times

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    @property
    def timesteps(self) -> Tensor:
        return self._timesteps

    @timesteps.setter
    def timesteps(self, timesteps: Tensor) -> None:
        self._timesteps = timesteps
        self._times: list[Any] = timesteps.tolist()
        self._places = {t: i for i, t in reversed(list(enumerate(self._times)))}

    def _checked_steps(self, num_inference_steps: Any) -> int:
        most = self.config.num_train_timesteps
        if not isinstance(num_inference_steps, int) or not 1 <= num_inference_steps <= most:
            raise ValueError(
                f"num_inference_steps must be an integer from 1 to {most}, the times of training, "
                f"not {num_inference_steps!r}"
            )
        return num_inference_steps

    @property
    def _stride(self) -> int:
        """How many times of training a step is."""
        if self.num_inference_steps is None:
            raise ValueError("num_inference_steps is not known: call set_timesteps first")
        return self.config.num_train_timesteps // self.num_inference_steps

    def _time(self, timestep: Any) -> Any:
        """A time as a number of the host, without waiting for the device if it is one of ``self.timesteps``."""
        if not isinstance(timestep, Tensor):
            return timestep
        if timestep.numel() != 1:
            raise ValueError(f"timestep must be one number, not of shape {list(timestep.shape)}")
        if not timestep.is_cpu:
            place = timestep.data_ptr() - self._timesteps.data_ptr()
            if 0 <= place < self._timesteps.nbytes and timestep.untyped_storage().data_ptr() == (
                self._timesteps.untyped_storage().data_ptr()
            ):
                return self._times[place // self._timesteps.itemsize]
        return timestep.item()

    def _place(self, t: Any) -> int:
        """The first place of a time in ``self.timesteps``."""
        place = self._places.get(t)
        if place is None:
            times = ", ".join(
                map(str, self._times if len(self._times) < 8 else [*self._times[:2], "...", self._times[-1]])
            )
            raise ValueError(f"timestep must be one of scheduler.timesteps, [{times}], not {t!r}")
        return place

    def _checked_time(self, t: Any) -> int:
        if not isinstance(t, int) or not 0 <= t < len(self._kept):
            raise ValueError(f"timestep must be an integer from 0 to {len(self._kept) - 1}, not {t!r}")
        return t

    def _clip(self) -> Clip:
        c = self.config
        if c.get("thresholding", False):
            return DynamicThreshold(c.dynamic_thresholding_ratio, c.sample_max_value)
        return c.get("clip_sample_range", 1.0) if c.get("clip_sample", False) else None

    def _levels(self, t: int) -> tuple[float, float]:
        """-> alpha and sigma at a time of training, x = alpha x0 + sigma eps."""
        kept = self._kept[t]
        if kept == 0 and self._prediction == "epsilon":
            if self._clip() is None:
                raise ValueError(
                    "prediction_type must not be 'epsilon' where rescale_betas_zero_snr leaves no signal at timestep "
                    f"{t}, unless x0 is clipped: noise says nothing of the original there"
                )
            return 2.0**-60, 1.0  # x0 is of no size, until it is clipped
        return math.sqrt(kept), math.sqrt(1 - kept)

    def _plan(self, *key: Any) -> Plan:
        """Of a step, by what it depends on besides the configuration and the times."""
        raise NotImplementedError

    def _planned_step(self, *key: Any) -> Plan:
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._plan(*key)
        return plan

    def _step(
        self,
        plan: Plan,
        model_output: Tensor,
        sample: Tensor,
        generator: Generator | None = None,
        noise: Tensor | None = None,
        *,
        history: tuple[Tensor, ...] = (),
        known: Tensor | None = None,
        mask: Tensor | None = None,
        keep: bool = True,
        noise_dtype: torch.dtype | None = None,
        seed: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        out: tuple[Tensor, Tensor | None] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        offset = 0
        if not plan.draws or noise is not None:
            seed = None
        else:
            if seed is None and generator is None:
                seed = self.seed
            if seed is None:
                noise = draw(sample.shape, generator, model_output.device, noise_dtype or model_output.dtype)
            else:
                offset = self._drawn
                self._drawn += sample.numel()
        return diffusion_step(
            sample,
            model_output,
            plan.coefficients,
            history=history,
            noise=noise,
            seed=seed,
            offset=offset,
            prediction=plan.prediction,  # type: ignore[arg-type]
            variance=plan.variance,  # type: ignore[arg-type]
            clip=plan.clip,
            guidance=guidance_scale,
            guidance_rescale=guidance_rescale,
            known=known,
            mask=mask,
            return_original=keep,
            out=out,
        )

    def skip_noise(self, numbers: int) -> None:
        """Says that so many of the first numbers of a seed were used elsewhere since ``set_timesteps``."""
        self._drawn += numbers

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the model should see of a sample."""
        return sample

    def _table_for(self, x: Tensor, timesteps: Any) -> Tensor:
        """-> timesteps [B] on the device of x, where alphas_cumprod is then too."""
        self.alphas_cumprod = self.alphas_cumprod.to(x.device)
        return torch.as_tensor(timesteps, device=x.device).flatten().expand(len(x))

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Samples at given times: sqrt(abar) x0 + sqrt(1 - abar) noise.

        Args:
            original_samples: [B, ...].
            noise: as original_samples.
            timesteps: [B] or one for all, int64.
        """
        times = self._table_for(original_samples, timesteps)
        return q_sample(original_samples, times, self.alphas_cumprod, noise, target=None)[0]

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What a model of "v_prediction" is trained for: sqrt(abar) noise - sqrt(1 - abar) x0; see ``add_noise``."""
        times = self._table_for(sample, timesteps)
        velocity = q_sample(sample, times, self.alphas_cumprod, noise, target="v")[1]
        assert velocity is not None
        return velocity


def draw(shape: torch.Size, generator: Generator | None, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Normal numbers as diffusers draws them: where the generator is, and each sample from its own if it is a list."""
    if isinstance(generator, list):
        if len(generator) == 1:
            return draw(shape, generator[0], device, dtype)
        if len(generator) != shape[0]:
            raise ValueError(f"generator must be a list of {shape[0]}, one for each sample, not {len(generator)}")
        one = torch.Size((1, *shape[1:]))
        return torch.cat([draw(one, each, device, dtype) for each in generator])
    if generator is None or generator.device.type == device.type:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)
    if generator.device.type != "cpu":
        raise ValueError(f"generator must be on {device} or the CPU, not on {generator.device}")
    return torch.randn(shape, generator=generator, dtype=dtype).to(device)
