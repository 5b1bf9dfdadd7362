"""Steps of diffusion in plain PyTorch: a sampler's step, a training step's noise, and the numbers they draw."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmkern.ops.diffusion.normals import normals


class Numbers(NamedTuple):
    """The numbers of one step.

    With x the sample, m the model's output, z the noise, all per element:

        x  <- x + churn z
        x0 =  clip(from_sample x + from_output m)
        y  =  sample x + original x0 + output m + history . h + noise deviation z
        y  <- mask (known k + known_noise z) + (1 - mask) y
    """

    from_sample: float
    from_output: float
    sample: float
    original: float
    output: float
    noise: float
    churn: float
    history1: float
    history2: float
    history3: float
    known: float
    known_noise: float
    log_low: float  # the logarithm of the variance where the model's place in its range is -1, and where it is 1
    log_high: float
    guidance: float
    rescale: float
    clip: float  # x0 lies in [-clip, clip]; infinity: anywhere
    ratio: float  # the quantile of |x0| by which its range is found, with clip as the most; negative: none


def diffusion_step(
    sample: Tensor,
    model_output: Tensor,
    noise: Tensor | None,
    known: Tensor | None,
    mask: Tensor | None,
    history1: Tensor | None,
    history2: Tensor | None,
    history3: Tensor | None,
    numbers: tuple[float, ...],
    seed: int | None,
    offset: int,
    variance: str,
    original: bool,
) -> tuple[Tensor, Tensor]:
    """sample [B, ...], model_output [B or 2 B, C or 2 C, ...] -> the previous sample, and x0 (of no elements unless
    ``original``)"""
    n = Numbers(*numbers)
    x, m = _wide(sample), _wide(model_output)
    learned = m[-len(x) :, sample.shape[1] :] if variance != "fixed" else None
    if variance != "fixed":
        m = m[:, : sample.shape[1]]
    if len(m) != len(x):
        m = _guided(m[: len(x)], m[len(x) :], n.guidance, n.rescale)
    z: Tensor | float = 0.0
    if noise is not None:
        z = _wide(noise)
    elif seed is not None:
        z = normals(x.numel(), seed, offset, x.device).view(x.shape).to(x.dtype)

    if n.churn:
        x = x + n.churn * z
    x0 = _weighted((n.from_sample, x), (n.from_output, m))
    x0 = dynamic_threshold(x0, n.ratio, n.clip) if n.ratio >= 0 else x0.clamp(-n.clip, n.clip)
    y = _weighted((n.sample, x), (n.original, x0), (n.output, m))
    for weight, h in ((n.history1, history1), (n.history2, history2), (n.history3, history3)):
        if h is not None:
            y = y + weight * _wide(h)
    if n.noise:
        y = y + n.noise * _deviation(learned, variance, n.log_low, n.log_high) * z
    if known is not None and mask is not None:
        mask = _wide(mask)
        y = mask * (n.known * _wide(known) + n.known_noise * z) + (1 - mask) * y
    return y.to(sample.dtype), x0.to(sample.dtype) if original else sample.new_empty(0)


def _weighted(*terms: tuple[float, Tensor]) -> Tensor:
    """The sum; what has no weight is left out, that its infinities have none either."""
    total = torch.zeros_like(terms[0][1])
    for weight, x in terms:
        if weight:
            total = total + weight * x
    return total


def diffusion_step_into(previous: Tensor, predicted: Tensor | None, *args: Any) -> None:
    y, x0 = diffusion_step(*args)
    previous.copy_(y)
    if predicted is not None:
        predicted.copy_(x0)


def _guided(unconditional: Tensor, conditional: Tensor, scale: float, rescale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans, 2022), with its deviation brought towards that of the conditional
    prediction (Lin et al., 2024)."""
    guided = unconditional + scale * (conditional - unconditional)
    if rescale == 0 or guided.numel() == 0:
        return guided
    factor = _per_sample(conditional).std(1) / _per_sample(guided).std(1)
    return guided * (rescale * factor + (1 - rescale)).view(-1, *(1,) * (guided.dim() - 1))


def _deviation(learned: Tensor | None, variance: str, low: float, high: float) -> Tensor | float:
    if learned is None:
        return 1.0
    if variance == "learned":
        return learned.sqrt()
    share = (learned + 1) / 2
    return (0.5 * (share * high + (1 - share) * low)).exp()


def dynamic_threshold(x0: Tensor, ratio: float, max_value: float) -> Tensor:
    """x0 [B, ...] -> each sample clamped to [-s, s] and divided by s, its quantile of |x0|, 1 <= s <= max_value
    (Saharia et al., 2022)."""
    if x0.numel() == 0:
        return x0
    # torch.quantile takes 16 million numbers at most
    ordered = _per_sample(_wide(x0)).abs().sort(1).values
    rank = ratio * (ordered.shape[1] - 1)
    below = ordered[:, int(rank)]
    above = ordered[:, min(int(rank) + 1, ordered.shape[1] - 1)]
    quantile = torch.lerp(below, above, rank - int(rank))
    quantile = torch.where(ordered[:, -1].isnan(), torch.nan, quantile)  # as torch.quantile has it
    s = quantile.clamp(1, max_value).view(-1, *(1,) * (x0.dim() - 1))
    return (_wide(x0).clamp(-s, s) / s).to(x0.dtype)


def q_sample(
    x0: Tensor, t: Tensor, alphas_cumprod: Tensor, noise: Tensor | None, seed: int | None, offset: int, target: str
) -> tuple[Tensor, Tensor]:
    """x0 [B, ...], t [B], alphas_cumprod [T] -> x_t, and the velocity (target "v") or the noise drawn ("epsilon", with
    a seed); of no elements where neither is wanted. A t that is no step gives NaN."""
    kept = alphas_cumprod.double()[t.clamp(0, len(alphas_cumprod) - 1)]
    kept = torch.where((t >= 0) & (t < len(alphas_cumprod)), kept, torch.nan).view(-1, *(1,) * (x0.dim() - 1))
    if t.is_cpu and not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active():
        for b, at in enumerate(t.tolist()):  # on a GPU, to look would be to wait
            if not 0 <= at < len(alphas_cumprod):
                raise ValueError(f"t must be 0 to {len(alphas_cumprod) - 1}, not {at} as t[{b}] is")
    x = _wide(x0)
    alpha, sigma = kept.sqrt().to(x.dtype), (1 - kept).sqrt().to(x.dtype)
    z = normals(x.numel(), seed, offset, x.device).view(x.shape) if noise is None else noise  # type: ignore[arg-type]
    z = z.to(x.dtype)
    noisy = (alpha * x + sigma * z).to(x0.dtype)
    if target == "v":
        return noisy, (alpha * z - sigma * x).to(x0.dtype)
    return noisy, z.to(x0.dtype) if target == "epsilon" and noise is None else x0.new_empty(0)


def philox_normal(out: Tensor, seed: int, offset: int) -> None:
    out.copy_(normals(out.numel(), seed, offset, out.device).view(out.shape))


def _per_sample(x: Tensor) -> Tensor:
    """[B, ...] -> [B, elements]; a sample may have no axes of its own"""
    return x.reshape(len(x), -1)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
