"""DF-GAN."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.models.parts.adversarial import gradient_norms, held, noise
from xmkern.models.parts.damsm import RegionEncoder, SentenceEncoder, matching_loss
from xmkern.models.parts.layout import by_place
from xmkern.models.parts.unet import resized
from xmkern.models.registry import register


@dataclass(frozen=True)
class DfGanConfig:
    """Of CUB birds; ``region_width``, ``halvings``: of the network that teaches the sentence encoder.

    ``norm``: whether sentences have mean 0 and deviation 1 before they steer: those of an encoder that began to learn
    a moment ago are small beside the noise. ``black``, ``white``: what the networks take them for. Where most of a
    picture is white, this is best in the middle of tanh: at its end no gradient leads back, and a generator without
    norms gets there within a hundred steps.
    """

    size: int = 256
    noise: int = 100
    width: int = 32
    vocabulary: int = 5450
    dim: int = 256
    word_dim: int = 300
    region_width: int = 32
    halvings: int = 4
    penalty: float = 2.0
    power: float = 6.0
    norm: bool = False
    black: float = -1.0
    white: float = 1.0


class DfGanOutput(NamedTuple):
    """Axes: ``B`` batch.

    Attributes:
        pictures: [B, 3, H, W], drawn.
        scores: [B], of the discriminator: do they fit the words?
    """

    pictures: Tensor
    scores: Tensor


@register(
    section="G",
    paper="Tao et al., DF-GAN: A Simple and Effective Baseline for Text-to-Image Synthesis, CVPR 2022",
    tiny=DfGanConfig(32, 16, 16, 2048, 64, 64, 32, 2, norm=True, black=-0.8, white=0.0),
    full=DfGanConfig(),
    kernels=("word_region_cosines", "similarity_loss"),
    parameters=18_734_593,
)
class DfGan(nn.Module):
    """Words scale and shift every layer of one generator; the discriminator has one output, and is flat where they fit.

    Each block of the generator is steered twice before each convolution, by affine maps that noise and sentence make.
    The discriminator is asked only whether picture and sentence fit; its gradient at real pictures with their own
    sentences is penalised, so that these lie at the bottom of a smooth valley.

    The sentence encoder learns to match pictures (DAMSM), here beside the rest instead of beforehand.

    Axes: ``B`` batch, ``T`` words, ``D`` the sentence, ``Z`` numbers of noise.
    """

    def __init__(self, config: DfGanConfig) -> None:
        super().__init__()
        self.config = c = config
        widths = [c.width * min(2**i, 8) for i in range(c.size.bit_length() - 2)]
        pairs = list(pairwise(widths))
        self.sentence = SentenceEncoder(c.vocabulary, c.dim, c.word_dim)
        self.regions = RegionEncoder(c.dim, c.region_width, c.halvings)
        self.generator = Generator(c, [(b, a) for a, b in reversed(pairs)])
        self.discriminator = Discriminator(c, pairs)
        self.norm = nn.BatchNorm1d(c.dim, affine=False) if c.norm else nn.Identity()

    def forward(self, words: Tensor, z: Tensor) -> DfGanOutput:
        """int64 [B, T] and [B, Z]"""
        sentence = self.norm(self.sentence(words).whole)
        pictures = self.generator(z, sentence)
        return DfGanOutput(pictures, *self.discriminator(pictures, sentence))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Of both sides, each with the other held, and of the encoders: ``pictures`` [B, 3, H, W], ``words`` [B, T]."""
        c, words = self.config, batch["words"]
        real = c.black + (batch["pictures"] + 1) / 2 * (c.white - c.black)
        encoded = self.sentence(words)
        loss = matching_loss(words, encoded, self.regions(real), batch["ids"])
        sentence = self.norm(encoded.whole.detach())
        drawn, other = self.generator(noise(len(real), c.noise, real), sentence), sentence.roll(1, 0)
        (drawn_fits,) = self.discriminator(drawn.detach(), sentence)
        loss = loss - held(self.discriminator, drawn, sentence)[0].mean()
        real, sentence = real.detach().requires_grad_(), sentence.detach().requires_grad_()
        with torch.enable_grad():  # under no_grad too the slopes are part of the loss
            fits, other_fits = self.discriminator(real, sentence, other)
            slopes = gradient_norms(fits, real, sentence)
        loss = loss + F.relu(1 - fits).mean() + (F.relu(1 + drawn_fits).mean() + F.relu(1 + other_fits).mean()) / 2
        return loss + c.penalty * (slopes**c.power).mean()

    def draw(self, words: Tensor, seed: int = 0) -> Tensor:
        """int64 [N, T] -> [N, 3, H, W]"""
        c, sentence = self.config, self.norm(self.sentence(words).whole)
        pictures = self.generator(noise(len(words), c.noise, sentence, seed), sentence)
        return ((pictures - c.black) / (c.white - c.black) * 2 - 1).clamp(-1, 1)


class Generator(nn.Module):
    """[B, Z] and [B, D] -> [B, 3, H, W]"""

    def __init__(self, c: DfGanConfig, pairs: list[tuple[int, int]]) -> None:
        super().__init__()
        self.first = nn.Linear(c.noise, pairs[0][0] * 16)
        self.blocks: Any = nn.ModuleList(FusionBlock(c.noise + c.dim, *pair) for pair in pairs)
        self.out = nn.Conv2d(pairs[-1][1], 3, 3, padding=1)

    def forward(self, z: Tensor, sentence: Tensor) -> Tensor:
        x, condition = by_place(self.first(z).unflatten(1, (-1, 4, 4))), torch.cat([z, sentence], 1)
        for block in self.blocks:
            x = block(resized(x, 2), condition)
        return self.out(F.leaky_relu(x, 0.2)).tanh()


class FusionBlock(nn.Module):
    """Affine maps and convolution twice, beside a way past them."""

    def __init__(self, condition_dim: int, channels: int, out: int) -> None:
        super().__init__()
        self.fusions: Any = nn.ModuleList(
            nn.ModuleList(Affine(condition_dim, width) for _ in range(2)) for width in (channels, out)
        )
        self.convs: Any = nn.ModuleList(nn.Conv2d(width, out, 3, padding=1) for width in (channels, out))
        self.shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = x
        for affines, conv in zip(self.fusions, self.convs, strict=True):
            for affine in affines:
                h = F.leaky_relu(affine(h, condition), 0.2)
            h = conv(h)
        return self.shortcut(x) + h


class Affine(nn.Module):
    """gamma(condition) x + beta(condition), each channel its own; at first x."""

    def __init__(self, condition_dim: int, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = (
            nn.Sequential(nn.Linear(condition_dim, channels), nn.ReLU(), nn.Linear(channels, channels))
            for _ in range(2)
        )
        ends: Any = ((self.gamma[2], 1.0), (self.beta[2], 0.0))
        for layer, value in ends:
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, value)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return torch.addcmul(self.beta(condition)[..., None, None], self.gamma(condition)[..., None, None], x)


class Discriminator(nn.Module):
    """[B, 3, H, W] and sentences [B, D] -> for each of these [B], greater where they fit"""

    def __init__(self, c: DfGanConfig, pairs: list[tuple[int, int]]) -> None:
        super().__init__()
        top = pairs[-1][1]
        self.first = nn.Conv2d(3, pairs[0][0], 3, padding=1)
        self.blocks = nn.Sequential(*(DownBlock(*pair) for pair in pairs))
        self.joint = nn.Sequential(
            nn.Conv2d(top + c.dim, 2 * c.width, 3, padding=1, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * c.width, 1, 4, bias=False),
            nn.Flatten(0),
        )

    def forward(self, pictures: Tensor, *sentences: Tensor) -> list[Tensor]:
        x = self.blocks(self.first(by_place(pictures)))
        return [self.joint(torch.cat([x, each[..., None, None].expand(-1, -1, *x.shape[2:])], 1)) for each in sentences]


class DownBlock(nn.Module):
    """Halves the side; what the convolutions find enters by a gate that begins at 0."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(channels, out, 4, 2, padding=1, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.LeakyReLU(0.2),
        )
        self.shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(resized(x, 0.5)) + self.gate * self.convs(x)
