"""DDPM."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.diffusion import sample
from xmkern.functional import q_sample
from xmkern.models.parts.diffusion import Guided, NoiseOutput, hybrid_loss, learned_range, noise_of_velocity
from xmkern.models.parts.unet import (
    DIFFUSERS_NAMES,
    PlaceAttention,
    Residual,
    UNet,
    pixel_unshuffle,
    resized,
    time_embedding,
)
from xmkern.models.registry import register


@dataclass(frozen=True)
class DdpmConfig:
    """Of CIFAR-10; ``velocity``: whether the network gives that, to be turned into noise; ``classes``: what the
    classifier that guides can tell, 0 for none of it."""

    size: int = 32
    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    depth: int = 2
    attention: tuple[int, ...] = (1,)
    head_dim: int | None = None
    dropout: float = 0.1
    patch: int = 1
    groups: int = 32
    times: int = 1000
    schedule: str = "squaredcos_cap_v2"
    velocity: bool = False
    classes: int = 0
    classifier_width: int = 0


@register(
    section="G",
    paper="Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020; Nichol and Dhariwal, Improved Denoising "
    "Diffusion Probabilistic Models, ICML 2021; Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, "
    "NeurIPS 2021",
    tiny=DdpmConfig(32, 32, (1, 2, 2), 1, (1,), 32, 0.0, 2, 8, 1000, "squaredcos_cap_v2", True, 9, 16),
    full=DdpmConfig(),
    kernels=("attention", "q_sample"),
    parity="diffusers.UNet2DModel",
    parameters=35_746_307,
)
class Ddpm(nn.Module):
    """Noise is regressed, the step's variance learnt, and a classifier of noisy pictures may steer the way back.

    q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I) is sampled at a random time, and a U-Net regresses the noise in
    it; beside it stands where the variance of the step back lies between the posterior's and beta, learnt by the
    variational bound.

    Axes: ``B`` batch, ``K`` classes.
    """

    reference_names = DIFFUSERS_NAMES
    reference_lacks = ("classifier",)

    def __init__(self, config: DdpmConfig) -> None:
        super().__init__()
        self.config = c = config
        self.unet = UNet(
            3, 6, c.width, c.multipliers, c.depth, c.attention, head_dim=c.head_dim, dropout=c.dropout, patch=c.patch,
            groups=c.groups,
        )  # fmt: skip
        self.classifier = NoisyClassifier(c.classifier_width, c.classes, c.groups) if c.classes else None
        self.scheduler = learned_range(c.times, c.schedule)

    def forward(self, noisy: Tensor, t: Tensor) -> NoiseOutput:
        """[B, 3, H, W] and their times [B], or one for all"""
        return NoiseOutput(*self._predict(noisy, t).chunk(2, 1))

    def _predict(self, noisy: Tensor, t: Tensor) -> Tensor:
        output = self.unet(noisy, t)
        return noise_of_velocity(output, noisy, t, self.scheduler.alphas_cumprod) if self.config.velocity else output

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Of ``pictures`` [B, 3, H, W]; and the classifier's, where there is one, of ``groups`` int64 [B]."""
        pictures = batch["pictures"]
        t = torch.randint(self.config.times, (len(pictures),), device=pictures.device)
        noise, table = torch.randn_like(pictures), self.scheduler.alphas_cumprod.to(pictures.device)
        noisy, _ = q_sample(pictures, t, table, noise)
        loss = hybrid_loss(self._predict(noisy, t), noisy, pictures, noise, t, table)
        if self.classifier is not None:
            loss = loss + F.cross_entropy(self.classifier(noisy, t), batch["groups"])
        return loss

    def draw(
        self, count: int, seed: int = 0, *, steps: int = 25, groups: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Args:
            count: N.
            seed: of all noise.
            steps: how many times of those of training.
            groups: int64 [N], classes to steer to; None for any.
            scale: how strongly.

        Returns:
            [N, 3, H, W], -1 to 1.
        """
        shape, device = (count, 3, self.config.size, self.config.size), next(self.parameters()).device
        if groups is None:
            return sample(self._predict, self.scheduler, shape, steps=steps, seed=seed, device=device)
        if self.classifier is None:
            raise ValueError("config.classes must be positive for groups to be steered to")
        classifier, wanted = self.classifier, groups

        def log_probability(x: Tensor, t: Tensor) -> Tensor:
            # A copy, since autograd takes no tensor of inference mode.
            return -F.cross_entropy(classifier(x, t), wanted.to(x.device, copy=True), reduction="none")

        guided = Guided(self._predict, self.scheduler, log_probability, scale)
        return sample(guided, self.scheduler, shape, steps=steps, seed=seed, device=device, callback=guided.shift)


class NoisyClassifier(nn.Module):
    """The way down of a U-Net, by which noisy pictures and their times are classified: -> [B, K]"""

    def __init__(self, width: int, classes: int, groups: int) -> None:
        super().__init__()
        self.width = width
        block: dict[str, Any] = {"time_dim": 4 * width, "scale_shift": True, "dropout": 0.0, "groups": groups}
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU())
        self.stem = nn.Conv2d(12, width, 3, padding=1)
        self.fine, self.coarse = Residual(width, 2 * width, **block), Residual(2 * width, 2 * width, **block)
        self.attend = PlaceAttention(2 * width, head_dim=None, context_dim=None, groups=groups)
        self.head = nn.Sequential(nn.GroupNorm(groups, 2 * width), nn.SiLU())
        self.out = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time(time_embedding(t.expand(len(x)), self.width).to(x.dtype))
        x = resized(self.fine(self.stem(pixel_unshuffle(x, 2)), time), 0.5)
        x = self.attend(self.coarse(x, time))
        return self.out(self.head(x).mean((2, 3)))
