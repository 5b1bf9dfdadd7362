"""WGAN with a gradient penalty."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.models.parts.adversarial import gradient_norms, held, noise
from xmkern.models.parts.unet import resized
from xmkern.models.registry import register


@dataclass(frozen=True)
class WganGpConfig:
    """The authors' residual networks for CIFAR-10; ``critics``: steps of the critic for one of the generator."""

    size: int = 32
    noise: int = 128
    width: int = 128
    penalty: float = 10.0
    critics: int = 5


class WganGpOutput(NamedTuple):
    """Axes: ``B`` batch.

    Attributes:
        pictures: [B, 3, H, W], drawn.
        scores: [B], of the critic.
    """

    pictures: Tensor
    scores: Tensor


@register(
    section="G",
    paper="Arjovsky et al., Wasserstein Generative Adversarial Networks, ICML 2017; Gulrajani et al., Improved "
    "Training of Wasserstein GANs, NIPS 2017",
    tiny=WganGpConfig(32, 64, 32, 10.0, 2),
    full=WganGpConfig(),
    parameters=2_258_308,
)
class WganGp(nn.Module):
    """A critic, kept from growing faster than 1 by a penalty on its gradient, measures how far pictures lie apart.

    The critic's greatest mean difference over real and drawn pictures is their Wasserstein distance, if no gradient's
    norm exceeds 1; the penalty pulls the norms to 1 on the lines between them, and is differentiated twice.

    Axes: ``B`` batch, ``Z`` numbers of noise.
    """

    step: Tensor

    def __init__(self, config: WganGpConfig) -> None:
        super().__init__()
        self.config = c = config
        self.generator = nn.Sequential(
            nn.Linear(c.noise, c.width * (c.size // 8) ** 2),
            nn.Unflatten(1, (c.width, c.size // 8, c.size // 8)),
            *(ResidualBlock(c.width, 2.0, norm=True) for _ in range(3)),
            nn.BatchNorm2d(c.width),
            nn.ReLU(),
            nn.Conv2d(c.width, 3, 3, padding=1),
            nn.Tanh(),
        )
        self.critic = nn.Sequential(
            FirstBlock(c.width),
            ResidualBlock(c.width, 0.5),
            ResidualBlock(c.width, 1.0),
            ResidualBlock(c.width, 1.0),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(c.width, 1),
            nn.Flatten(0),
        )
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, z: Tensor) -> WganGpOutput:
        """[B, Z]"""
        pictures = self.generator(z)
        return WganGpOutput(pictures, self.critic(pictures))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The critic's, and each ``critics`` calls that of the generator too, of ``pictures`` [B, 3, H, W].

        Calls count in training alone; elsewhere both are always there.
        """
        real = batch["pictures"]
        turn = not self.training or int(self.step) % self.config.critics == 0
        self.step += self.training
        with torch.set_grad_enabled(turn and torch.is_grad_enabled()):
            drawn = self.generator(noise(len(real), self.config.noise, real))
        between = torch.lerp(real, drawn.detach(), torch.rand(len(real), 1, 1, 1, device=real.device)).requires_grad_()
        with torch.enable_grad():  # under no_grad too the slopes are part of the loss
            slopes = gradient_norms(self.critic(between), between)
        loss = self.critic(drawn.detach()).mean() - self.critic(real).mean()
        loss = loss + self.config.penalty * ((slopes - 1) ** 2).mean()
        return loss - held(self.critic, drawn).mean() if turn else loss

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """-> [count, 3, H, W]"""
        return self.generator(noise(count, self.config.noise, next(self.parameters()), seed))


class ResidualBlock(nn.Module):
    """Norm, ReLU and convolution twice, beside a way past them; the side is doubled before or halved after."""

    def __init__(self, width: int, side: float, *, norm: bool = False) -> None:
        super().__init__()
        self.side = side
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) if norm else nn.Identity() for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.shortcut = nn.Conv2d(width, width, 1) if side != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        before, after = max(1.0, self.side), min(1.0, self.side)
        h = self.convs[0](resized(F.relu(self.norms[0](x)), before))
        h = resized(self.convs[1](F.relu(self.norms[1](h))), after)
        # Resizing and a convolution of 1 x 1 may change places, and on fewer places it costs less.
        return (self.shortcut(resized(x, after)) if after < 1 else resized(self.shortcut(x), before)) + h


class FirstBlock(nn.Module):
    """The critic's, which reads pixels and halves the side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
        self.shortcut = nn.Conv2d(3, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(resized(x, 0.5)) + resized(self.convs(x), 0.5)
