"""GAN."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.models.parts.adversarial import held, noise
from xmkern.models.registry import register


@dataclass(frozen=True)
class GanConfig:
    """The authors' fully connected networks for CIFAR-10."""

    size: int = 32
    noise: int = 100
    hidden: int = 8000
    units: int = 1600
    pieces: int = 5
    dropout: tuple[float, float, float] = (0.2, 0.5, 0.5)


class GanOutput(NamedTuple):
    """Axes: ``B`` batch.

    Attributes:
        pictures: [B, 3, H, W], drawn.
        logits: [B], of the discriminator: positive where it takes them for real.
    """

    pictures: Tensor
    logits: Tensor


@register(
    section="G",
    paper="Goodfellow et al., Generative Adversarial Nets, NIPS 2014",
    tiny=GanConfig(32, 64, 512, 64, 2),
    full=GanConfig(),
    parameters=126_788_673,
)
class Gan(nn.Module):
    """A generator of pictures learns by deceiving a discriminator, which learns to tell them from real ones.

    The generator has a rectified and a sigmoid layer, the discriminator two of maxout with dropout. The generator
    maximises log D(G(z)), whose gradient does not vanish where it loses.

    Axes: ``B`` batch, ``Z`` numbers of noise.
    """

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        self.config = c = config
        pixels = 3 * c.size**2
        self.generator = nn.Sequential(
            nn.Linear(c.noise, c.hidden),
            nn.ReLU(),
            nn.Linear(c.hidden, c.hidden),
            nn.Sigmoid(),
            nn.Linear(c.hidden, pixels),
            nn.Unflatten(1, (3, c.size, c.size)),
        )
        first, second, third = (nn.Dropout(p) for p in c.dropout)
        self.discriminator = nn.Sequential(
            nn.Flatten(),
            first,
            Maxout(pixels, c.units, c.pieces),
            second,
            Maxout(c.units, c.units, c.pieces),
            third,
            nn.Linear(c.units, 1),
            nn.Flatten(0),
        )

    def forward(self, z: Tensor) -> GanOutput:
        """[B, Z]"""
        pictures = self.generator(z)
        return GanOutput(pictures, self.discriminator(pictures))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The discriminator's and the generator's, each with the other held, of ``pictures`` [B, 3, H, W]."""
        real = batch["pictures"]
        drawn = self.generator(noise(len(real), self.config.noise, real))
        told = F.softplus(-self.discriminator(real)).mean() + F.softplus(self.discriminator(drawn.detach())).mean()
        return told + F.softplus(-held(self.discriminator, drawn)).mean()

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """-> [count, 3, H, W]"""
        return self.generator(noise(count, self.config.noise, next(self.parameters()), seed))


class Maxout(nn.Linear):
    """The greatest of several linear functions: [B, F] -> [B, units] (Goodfellow et al., 2013)."""

    def __init__(self, features: int, units: int, pieces: int) -> None:
        super().__init__(features, units * pieces)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unflatten(1, (-1, self.pieces)).amax(2)
