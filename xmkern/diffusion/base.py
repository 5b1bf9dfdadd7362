"""What all schedulers share: tables, times, noise, and the one call that makes a step."""

import functools
import math
from operator import attrgetter
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from xmkern.diffusion.config import Config, Configured, chosen
from xmkern.diffusion.schedules import betas, zero_terminal_snr
from xmkern.functional import DynamicThreshold, StepCoefficients, diffusion_step, q_sample

Generator = torch.Generator | list[torch.Generator]
Clip = float | DynamicThreshold | None

PREDICTIONS = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v", "flow_prediction": "flow"}
LEARNED = ("learned", "learned_range")
# Knobs of the tables, which are made once.
TABLES = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "set_alpha_to_one",
)
INTEGERS = (int, np.integer)


class SchedulerOutput(NamedTuple):
    """What a step returns: the sample at the earlier time, and the original that was predicted, clipped."""

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None

    def __getitem__(self, key: Any) -> Any:
        return self._asdict()[key] if isinstance(key, str) else tuple.__getitem__(self, key)


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


def planned(kept: str, numbers: str) -> Any:
    """An attribute that steps are planned by, kept under a name of its own: what was planned falls where another value
    is assigned. The numbers of a tensor are kept too, for the host."""

    def assign(made: Any, value: Any) -> None:
        of_host = value.tolist() if isinstance(value, Tensor) else value
        if of_host != getattr(made, numbers, None):
            made._plans = {}
        setattr(made, kept, value)
        setattr(made, numbers, of_host)

    return property(attrgetter(kept), assign)  # which Python reads no slower than other attributes


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
    betas: Tensor
    timesteps: Tensor = planned("_timesteps", "_times")
    num_inference_steps: int | None = planned("_num_inference_steps", "_steps")
    alphas_cumprod: Tensor = planned("_alphas_cumprod", "_kept")
    _times: list[Any]
    _kept: list[float]
    _predictions: tuple[str, ...] = ("epsilon", "sample", "v_prediction")
    # Whether a sample becomes of the model's type, where that is another.
    _as_output = False

    def _configure(self, own: Config) -> None:
        for name in TABLES if self._own else ():
            if name in own and not np.array_equal(own[name], self._own[name]):
                raise ValueError(
                    f"{name} must not be replaced, for the tables were made with it: make a scheduler with "
                    f"from_config(config, {name}=...)"
                )
        prediction = chosen("prediction_type", own.get("prediction_type", "epsilon"), *self._predictions)
        self._prediction = PREDICTIONS[prediction]
        self._plans: dict[Any, Plan] = {}

    def _begin(self) -> None:
        """Makes the tables; the first thing that a constructor does."""
        c = self._own
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
        self.seed: int | None = None
        self.num_inference_steps = None
        self._set_out(torch.arange(len(self.betas) - 1, -1, -1))

    def _set_out(self, timesteps: Tensor) -> None:
        """Begins the first picture of a way."""
        self.timesteps = timesteps
        self.restart()

    def restart(self) -> None:
        """Begins another picture on the way of the last ``set_timesteps``: forgets what was seen and drawn of the last
        one."""
        self._drawn = 0

    def __len__(self) -> int:
        return self._own.num_train_timesteps

    def _checked_steps(self, num_inference_steps: Any) -> int:
        most = self._own.num_train_timesteps
        if not isinstance(num_inference_steps, INTEGERS) or not 1 <= num_inference_steps <= most:
            raise ValueError(
                f"num_inference_steps must be an integer from 1 to {most}, the times of training, "
                f"not {num_inference_steps!r}"
            )
        return int(num_inference_steps)

    @property
    def _stride(self) -> int:
        """How many times of training a step is."""
        if self.num_inference_steps is None:
            raise ValueError("num_inference_steps is not known: call set_timesteps first")
        return self._own.num_train_timesteps // self.num_inference_steps

    def _time(self, timestep: Any) -> Any:
        """A time as a number of the host, without waiting for the device if it is one of ``self.timesteps``."""
        if not isinstance(timestep, Tensor):
            return timestep
        if timestep.numel() != 1:
            raise ValueError(f"timestep must be one number, not of shape {list(timestep.shape)}")
        if not timestep.is_cpu:
            times = self.timesteps
            place = timestep.data_ptr() - times.data_ptr()
            if 0 <= place < times.nbytes and timestep.untyped_storage().data_ptr() == (
                times.untyped_storage().data_ptr()
            ):
                return self._times[place // times.itemsize]
        return timestep.item()

    def _place(self, t: Any) -> int:
        """The first place of a time in ``self.timesteps``."""
        if t not in self._times:
            times = ", ".join(
                map(str, self._times if len(self._times) < 8 else [*self._times[:2], "...", self._times[-1]])
            )
            raise ValueError(f"timestep must be one of scheduler.timesteps, [{times}], not {t!r}")
        return self._times.index(t)

    def _checked_time(self, t: Any) -> int:
        if not isinstance(t, INTEGERS) or not 0 <= t < len(self._kept):
            raise ValueError(f"timestep must be an integer from 0 to {len(self._kept) - 1}, not {t!r}")
        return int(t)

    def _clip(self) -> Clip:
        c = self._own
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
        try:
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
        except TypeError:
            # Of two types, as where the model is autocast? To ask before would take time of every step.
            given = [x.dtype for x in (sample, model_output, *history) if isinstance(x, Tensor)]
            if len(set(given)) < 2:
                raise
        wide = functools.reduce(torch.promote_types, given)
        if seed is not None:
            self._drawn = offset
        made = self._step(
            plan, model_output.to(wide), sample.to(wide), noise=_to(wide, noise),
            history=tuple(h.to(wide) for h in history),
            known=_to(wide, known), mask=mask if mask is None or mask.dtype == torch.bool else mask.to(wide),
            keep=keep, seed=seed, guidance_scale=guidance_scale, guidance_rescale=guidance_rescale,
            out=None if out is None else (out[0].to(wide), _to(wide, out[1])),
        )  # fmt: skip
        if out is None:
            return made[0].to(model_output.dtype) if self._as_output else made[0], made[1]
        for to, x in zip(out, made, strict=True):
            if to is not None and x is not None and to is not x:
                to.copy_(x)
        return out

    def skip_noise(self, numbers: int) -> None:
        """Says that so many of the first numbers of a seed were used elsewhere since ``set_timesteps``."""
        self._drawn += numbers

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the model should see of a sample."""
        return sample

    def _noised(self, x: Tensor, noise: Tensor, timesteps: Any, target: Any) -> tuple[Tensor, Tensor | None]:
        table = self.alphas_cumprod
        if table.device != x.device:
            table = self.alphas_cumprod = table.to(x.device)
        times = torch.as_tensor(timesteps, device=x.device).flatten()
        if len(times) not in (1, len(x)):
            raise ValueError(f"timesteps must be of shape [{len(x)}] or one for all, not {list(times.shape)}")
        try:
            return q_sample(x, times.expand(len(x)), table, noise, target=target)
        except (ValueError, TypeError):  # which has other names for the arguments
            if times.is_floating_point():
                raise TypeError(f"timesteps must be integers, not {times.dtype}") from None
            if times.is_cpu and not ((times >= 0) & (times < len(table))).all():
                raise ValueError(f"timesteps must be 0 to {len(table) - 1}, not {times.tolist()}") from None
            raise

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Samples at given times: sqrt(abar) x0 + sqrt(1 - abar) noise.

        Args:
            original_samples: [B, ...].
            noise: as original_samples.
            timesteps: [B] or one for all, int64.
        """
        return self._noised(original_samples, noise, timesteps, None)[0]

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What a model of "v_prediction" is trained for: sqrt(abar) noise - sqrt(1 - abar) x0; see ``add_noise``."""
        velocity = self._noised(sample, noise, timesteps, "v")[1]
        assert velocity is not None
        return velocity


def _to(dtype: torch.dtype, x: Tensor | None) -> Tensor | None:
    return None if x is None else x.to(dtype)


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
