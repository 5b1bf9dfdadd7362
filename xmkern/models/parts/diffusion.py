"""Training and guidance of diffusion models that predict noise and its variance."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from xmkern.diffusion import DDPMScheduler
from xmkern.functional import classifier_guidance


class NoiseOutput(NamedTuple):
    """Axes: ``B`` batch.

    Attributes:
        noise: [B, 3, H, W].
        variance: [B, 3, H, W], where in the range of possible variances it lies: -1 that of the posterior, 1 beta.
    """

    noise: Tensor
    variance: Tensor


def learned_range(times: int, schedule: str) -> DDPMScheduler:
    """The sampler of a model that predicts noise and variance."""
    with torch.device("cpu"):  # numbers of the host, wherever the model is
        return DDPMScheduler(times, beta_schedule=schedule, variance_type="learned_range")


def _table(alphas_cumprod: Tensor, like: Tensor) -> Tensor:
    """Where ``like`` is, in float32 at least: in half precision 1 - abar is 0 at the ends, and its logarithm none."""
    return alphas_cumprod.to(like.device, torch.promote_types(like.dtype, torch.float32))


def noise_of_velocity(output: Tensor, noisy: Tensor, t: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """[B, 2 C, H, W] of which the first half is the velocity -> the same with the noise there: sqrt(1 - abar) x_t +
    sqrt(abar) v (Salimans and Ho, 2022). A small network need not carry all noise through then."""
    velocity, place = output.chunk(2, 1)
    kept = _table(alphas_cumprod, noisy)[t].view(-1, 1, 1, 1)
    noise = (1 - kept).sqrt() * noisy + kept.sqrt() * velocity
    return torch.cat([noise, place], 1).to(torch.result_type(noisy, output))


def hybrid_loss(
    output: Tensor, noisy: Tensor, pictures: Tensor, noise: Tensor, t: Tensor, alphas_cumprod: Tensor
) -> Tensor:
    """Squared error of the noise, and a thousandth of the variational bound, which teaches the variance alone
    (Nichol and Dhariwal, 2021, equation 16).

    Args:
        output: [B, 2 C, H, W]: the noise, and where its variance lies between that of the posterior (-1) and beta (1).
        noisy, pictures, noise: [B, C, H, W]: x_t, x_0 and what lies between.
        t: int64 [B].
        alphas_cumprod: [T].
    """
    predicted, place = output.chunk(2, 1)
    bound = variational_bound(predicted.detach(), place, noisy, pictures, t, alphas_cumprod)
    return F.mse_loss(predicted, noise) + 0.001 * len(alphas_cumprod) * bound.mean()


def variational_bound(
    predicted: Tensor, place: Tensor, noisy: Tensor, pictures: Tensor, t: Tensor, alphas_cumprod: Tensor
) -> Tensor:
    """The term at time t of the bound on -log2 p(x_0), per number of a picture, [B] (Ho et al., 2020, equation 5): the
    divergence of p(x_{t-1} | x_t) from the posterior q(x_{t-1} | x_t, x_0); at t = 0, -log2 p(x_0 | x_1) of numbers in
    256 steps.
    """
    table = _table(alphas_cumprod, noisy)
    kept = table[t].view(-1, 1, 1, 1)
    before = F.pad(table, (1, 0), value=1.0)[t].view(-1, 1, 1, 1)
    beta = 1 - kept / before
    # At t = 0 the posterior has no variance: that of the time after stands in (as in the authors' code).
    first = table[:2]
    least = ((1 - first[0]) / (1 - first[1]) * (1 - first[1] / first[0])) if len(first) > 1 else beta.min()
    low = ((1 - before) / (1 - kept) * beta).clamp(min=least).log()
    log_variance = (low + beta.log()) / 2 + place * (beta.log() - low) / 2
    original = ((noisy - (1 - kept).sqrt() * predicted) / kept.sqrt()).clamp(-1, 1)
    to_original, to_sample = before.sqrt() * beta / (1 - kept), (1 - beta).sqrt() * (1 - before) / (1 - kept)
    mean = to_original * original + to_sample * noisy
    error = (to_original * pictures + to_sample * noisy - mean) ** 2
    divergence = 0.5 * (log_variance - low + (low - log_variance).exp() + error / log_variance.exp() - 1)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    above = torch.where(pictures > 0.999, 1.0, normal.cdf(pictures + 1 / 255))
    below = torch.where(pictures < -0.999, 0.0, normal.cdf(pictures - 1 / 255))
    bits = torch.where(t.view(-1, 1, 1, 1) == 0, -(above - below).clamp(min=1e-12).log(), divergence)
    return bits.flatten(1).mean(1) / torch.log(torch.tensor(2.0))


class Guided:
    """A network whose samples a classifier steers: each step is shifted along scale variance grad log p(y | x_t)
    (Dhariwal and Nichol, 2021, algorithm 1). To be given to :func:`xmkern.diffusion.sample`, and ``shift`` as its
    ``callback``.

    Args:
        network: (x, t[, condition]) -> noise and variance, [B, 2 C, H, W]; of a batch twice as large the second half
            counts, as without a classifier it is guided.
        scheduler: with ``variance_type="learned_range"``.
        log_probability: (x [B, C, H, W], t) -> [B], whose gradient is asked for: a classifier's, or a similarity to
            words times a scale (noised CLIP; Nichol et al., 2022).
        scale: of the shift.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        scheduler: DDPMScheduler,
        log_probability: Callable[[Tensor, Tensor], Tensor],
        scale: float,
    ) -> None:
        self.network, self.scheduler, self.log_probability, self.scale = network, scheduler, log_probability, scale
        self._seen: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor, t: Tensor, *condition: Any) -> Tensor:
        output = self.network(x, t, *condition)
        self._seen = x.clone(), output.chunk(2, 1)[1]
        return output

    def shift(self, i: int, t: Tensor, previous: Tensor) -> Tensor | None:
        if t == 0:  # the last step adds no noise
            return None
        assert self._seen is not None
        x, place = (seen[-len(previous) :] for seen in self._seen)
        # Copies, since autograd takes no tensor of inference mode.
        with torch.inference_mode(False), torch.enable_grad():
            x, t = x.clone().requires_grad_(), t.clone()
            (gradient,) = torch.autograd.grad(self.log_probability(x, t).sum(), x)
        kept = _table(self.scheduler.alphas_cumprod, x)
        earlier = self.scheduler.previous_timestep(t)
        before = kept[earlier] if earlier >= 0 else torch.ones_like(kept[0])
        beta = 1 - kept[t] / before
        low, high = ((1 - before) / (1 - kept[t]) * beta).clamp(min=1e-20).log(), beta.log()
        variance = ((low + high) / 2 + place.to(kept) * (high - low) / 2).exp()
        return classifier_guidance(previous, variance.to(previous), gradient, self.scale)
