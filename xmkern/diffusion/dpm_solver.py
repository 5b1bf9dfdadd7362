"""DPM-Solver and DPM-Solver++ (Lu et al., 2022), over several steps, as an ODE or an SDE."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from torch import Tensor

from xmkern.diffusion.base import LEARNED, Fused, Generator, Plan, SchedulerOutput
from xmkern.diffusion.config import Config, chosen, configured
from xmkern.diffusion.dpm_integrals import integrals_of_eps, integrals_of_x0, weights_of_predictions
from xmkern.diffusion.schedules import Floats, spaced_times
from xmkern.diffusion.sigmas import SigmaScheduler
from xmkern.functional import StepCoefficients

OF_NOISE = ("dpmsolver", "sde-dpmsolver")
ALGORITHMS = ("dpmsolver++", "sde-dpmsolver++", *OF_NOISE)


class DPMSolverMultistepScheduler(SigmaScheduler):
    """An exponential integrator of order 1 to 3 in lambda = log(alpha / sigma), which keeps earlier predictions.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, thresholding,
            dynamic_thresholding_ratio, sample_max_value, timestep_spacing, steps_offset, rescale_betas_zero_snr: see
            :class:`DDPMScheduler`.
        solver_order: 1, 2 or 3 ("sde-dpmsolver": at most 2).
        prediction_type: "epsilon", "sample", "v_prediction" or, with use_flow_sigmas, "flow_prediction".
        algorithm_type: "dpmsolver++" or "sde-dpmsolver++", which extrapolate x0; "dpmsolver" or "sde-dpmsolver", eps.
        solver_type: of second order, "midpoint" or "heun".
        lower_order_final: whether the last steps are of lower order where there are fewer than 15.
        euler_at_final: whether the last step is of first order.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas, use_lu_lambdas, use_flow_sigmas, flow_shift: how
            sigmas are spread instead of by times.
        final_sigmas_type: "zero", or "sigma_min" as at the first time of training.
        lambda_min_clipped: the least lambda at which sampling begins.
        variance_type: "learned" or "learned_range" where the model's output has a variance too; it is not used.
        use_dynamic_shifting, time_shift_type: whether ``set_timesteps`` takes ``mu``, the logarithm of flow_shift.
    """

    # Theirs too reads "deis", and the others, so.
    _synonyms: ClassVar[dict[str, dict[Any, Any]]] = {
        "algorithm_type": {"deis": "dpmsolver++"},
        "solver_type": dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint"),
    }

    @configured
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | np.ndarray | None = None,
        solver_order: int = 2,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: str = "dpmsolver++",
        solver_type: str = "midpoint",
        lower_order_final: bool = True,
        euler_at_final: bool = False,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_lu_lambdas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float = 1.0,
        final_sigmas_type: str = "zero",
        lambda_min_clipped: float = -float("inf"),
        variance_type: str | None = None,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
    ) -> None:
        self._begin()
        self._set_out(torch.arange(num_train_timesteps - 1.0, -1, -1))

    def _configure(self, own: Config) -> None:
        algorithm = chosen("algorithm_type", own.algorithm_type, *ALGORITHMS)
        chosen("solver_type", own.solver_type, "midpoint", "heun")
        chosen("solver_order", own.solver_order, *((1, 2) if algorithm == "sde-dpmsolver" else (1, 2, 3)))
        chosen("time_shift_type", own.time_shift_type, "exponential")
        of_noise = algorithm in OF_NOISE
        if of_noise and own.final_sigmas_type == "zero":
            raise ValueError(f"final_sigmas_type must be 'sigma_min' for {algorithm}, which ends with some noise")
        self._predictions = (*SigmaScheduler._predictions, *(("flow_prediction",) if own.use_flow_sigmas else ()))
        super()._configure(own)
        self._of_noise = of_noise
        self._flow_shift = own.flow_shift
        self._most = own.solver_order
        self._cut = own.variance_type in LEARNED
        self._twice = of_noise and own.thresholding

    def restart(self) -> None:
        super().restart()
        self.model_outputs: list[Tensor | None] = [None] * self._most
        self.lower_order_nums = 0

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        mu: float | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Says how many steps will be made, or with ``timesteps`` at which times, and forgets earlier predictions."""
        self._one_of(num_inference_steps=num_inference_steps, timesteps=timesteps)
        self._no_curve(timesteps)
        if mu is not None:
            if not self._own.use_dynamic_shifting:
                raise ValueError("mu must be None where use_dynamic_shifting is False")
            self._flow_shift = math.exp(mu)
        if timesteps is not None:
            steps, spaced = len(timesteps), np.asarray(timesteps, np.float64)
        else:
            steps = self._checked_steps(num_inference_steps)
            spaced = self._spaced(steps).astype(np.float64)
        sigmas, times = self._spread(spaced, steps)
        self.num_inference_steps = len(times)
        self._follow(sigmas)
        self._set_out(torch.from_numpy(times.astype(np.int64)).to(device))

    def _spaced(self, steps: int) -> Floats:
        """One time more than there are steps is spaced, and the last one left out."""
        c = self._own
        # lambda ascends where times descend
        signal, noise = self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()
        loud = (signal.log() - noise.log() < c.lambda_min_clipped).sum().item()
        last = int(c.num_train_timesteps - loud)
        if c.timestep_spacing == "trailing":
            return spaced_times("trailing", steps, c.num_train_timesteps, last=last)
        return spaced_times(c.timestep_spacing, steps + 1, c.num_train_timesteps, c.steps_offset, last=last)[
            :-1
        ].round()

    def _spread(self, times: Floats, steps: int) -> tuple[Floats, Floats]:
        """-> sigmas and times, by times or as the configuration says."""
        c = self._own
        table = self._table
        low, high = float(table[0]), float(table[-1])
        rounded = c.use_karras_sigmas or c.use_lu_lambdas
        curve = self._curve(low, high, steps)
        if curve is None and c.use_lu_lambdas:
            logs = np.log(table)
            curve = np.exp(np.linspace(float(logs[-1]), float(logs[0]), steps))
        if curve is not None:
            times = self._sigma_times(curve)
            return curve, times.round() if rounded and c.beta_schedule != "squaredcos_cap_v2" else times
        if c.use_flow_sigmas:
            line = np.linspace(1, 1 / c.num_train_timesteps, steps + 1)
            shift = self._flow_shift
            sigmas = (shift * (1 - line) / (1 + (shift - 1) * (1 - line)))[::-1][:-1]
            return sigmas, sigmas * c.num_train_timesteps
        return np.interp(times, np.arange(len(table)), table), times

    def _alpha_sigma(self, sigma: float) -> tuple[float, float]:
        if self._own.use_flow_sigmas:
            return 1 - sigma, sigma
        alpha = 1 / math.hypot(sigma, 1)
        return alpha, sigma * alpha

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        t = self._time(timestep)
        known = self._times if schedule_timesteps is None else schedule_timesteps.tolist()
        return super().index_for_timestep(t, schedule_timesteps) if t in known else len(self._times) - 1

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generator | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        **fused: Unpack[Fused],
    ) -> SchedulerOutput | tuple[Tensor]:
        """From one sigma to the next; see :meth:`DDPMScheduler.step`.

        Args:
            timestep: one of ``timesteps``; read at the first step, from where steps are counted.
        """
        if self.num_inference_steps is None:
            raise ValueError("num_inference_steps is not known: call set_timesteps first")
        place = self._current(timestep)
        plan = self._planned_step(place, self._order(place))
        if self._cut:
            model_output = model_output[:, : sample.shape[1]]
        if self._twice:
            model_output = self._thresholded_noise(place, model_output, sample, fused)
        earlier = tuple(self.model_outputs[-1 : -1 - len(plan.coefficients.history) : -1])
        fused["out"] = self._memory(fused.get("out"), sample, model_output, *earlier)
        previous, predicted = self._step(
            plan, model_output, sample, generator, variance_noise,
            history=earlier, noise_dtype=torch.float32, **fused,  # type: ignore[arg-type]
        )  # fmt: skip
        self.model_outputs = [*self.model_outputs[1:], predicted]
        if self.lower_order_nums < self._most:
            self.lower_order_nums += 1
        self._step_index = place + 1
        return SchedulerOutput(previous) if return_dict else (previous,)

    def _memory(
        self, out: tuple[Tensor, Tensor | None] | None, sample: Tensor, *others: Any
    ) -> tuple[Tensor, Tensor | None] | None:
        """Where to write: the prediction, which is kept, over the oldest one, which is of no more use, but to a
        gradient that goes through it."""
        oldest = self.model_outputs[0]
        if oldest is not None and not (
            oldest.shape == sample.shape
            and oldest.dtype == sample.dtype
            and oldest.is_contiguous()
            and not oldest.requires_grad
        ):
            oldest = None
        if out is not None:
            fresh = oldest is None
            return out[0], torch.empty_like(sample, memory_format=torch.contiguous_format) if fresh else oldest
        if oldest is None or (torch.is_grad_enabled() and any(x.requires_grad for x in (sample, *others))):
            return None
        return torch.empty_like(oldest), oldest

    def _order(self, place: int) -> int:
        """Of the step to be made: no more than predictions allow, and less at the end."""
        order = min(self._most, self.lower_order_nums + 1)
        left = len(self._times) - 1 - place
        if left > 1:
            return order
        c = self._own
        few = c.lower_order_final and len(self._times) < 15
        if self._sigmas[place + 1] == 0 or (left == 0 and (c.euler_at_final or few)):
            return 1
        return min(order, 2) if left == 1 and few else order

    def _thresholded_noise(self, place: int, model_output: Tensor, sample: Tensor, fused: Fused) -> Tensor:
        """eps of the thresholded x0, in a pass of its own: (x - alpha x0) / sigma"""
        alpha, sigma = self._alpha_sigma(self._sigmas[place])
        coefficients = StepCoefficients(alpha, sigma, sample=1 / sigma, original=-alpha / sigma)
        plan = Plan(coefficients, self._prediction, self._clip())
        guidance = {name: fused.pop(name) for name in ("guidance_scale", "guidance_rescale") if name in fused}
        return self._step(plan, model_output, sample, keep=False, **guidance)[0]  # type: ignore[arg-type]

    def _plan(self, place: int, order: int) -> Plan:
        """The integral of the prediction, as a polynomial through this and earlier ones, from lambda_s to lambda_t."""
        c = self._own
        alpha_t, sigma_t = self._alpha_sigma(self._sigmas[place + 1])
        alpha_s, sigma_s = self._alpha_sigma(self._sigmas[place])
        lambdas = [self._lambda(place - i) for i in range(-1, order)]
        # Where two sigmas are one, nothing can be divided by what is between them.
        order = next((max(i, 1) for i in range(order) if lambdas[i] == lambdas[i + 1]), order)
        lambdas = lambdas[: order + 1]
        h = lambdas[0] - lambdas[1]
        sde = c.algorithm_type.startswith("sde")
        midpoint = order == 2 and c.solver_type == "midpoint"
        if self._of_noise:
            sample, scale, integrals = alpha_t / alpha_s, sigma_t, integrals_of_eps(h, order, sde, midpoint)
            variance = math.expm1(2 * h)
        else:
            sample, scale, integrals = sigma_t / sigma_s, alpha_t, integrals_of_x0(h, order, sde, midpoint)
            sample *= math.exp(-h) if sde else 1.0
            variance = -math.expm1(-2 * h)
        weights = weights_of_predictions([scale * b for b in integrals], lambdas)
        noise = sigma_t * math.sqrt(max(variance, 0)) if sde else 0.0
        # The kernel keeps "x0"; with alpha and sigma exchanged that is eps.
        levels = (sigma_s, alpha_s) if self._of_noise else (alpha_s, sigma_s)
        prediction, clip = self._prediction, self._clip()
        if self._of_noise:
            clip, thresholded = None, clip is not None
            if prediction == "v" and not thresholded:
                levels = sigma_s, -alpha_s
            else:
                prediction = "epsilon" if prediction == "sample" and not thresholded else "sample"
        coefficients = StepCoefficients(
            *levels, sample=sample, original=weights[0], history=tuple(weights[1:]), noise=noise
        )
        return Plan(coefficients, prediction, clip, draws=sde)

    def _lambda(self, place: int) -> float:
        alpha, sigma = self._alpha_sigma(self._sigmas[place])
        return math.log(alpha / sigma) if sigma else math.inf
