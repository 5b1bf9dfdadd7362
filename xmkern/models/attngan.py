"""AttnGAN."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern import masks
from xmkern.functional import KeyValue, cross_attention
from xmkern.models.parts.adversarial import held, noise
from xmkern.models.parts.damsm import Encoded, RegionEncoder, SentenceEncoder, matching_loss
from xmkern.models.parts.words import lengths
from xmkern.models.registry import register


@dataclass(frozen=True)
class AttnGanConfig:
    """Of CUB birds; ``region_width``, ``halvings``: of the pictures' encoder, for which the authors took Inception."""

    size: int = 256
    stages: int = 3
    noise: int = 100
    condition: int = 100
    width: int = 32
    judge_width: int = 64
    residuals: int = 2
    vocabulary: int = 5450
    dim: int = 256
    word_dim: int = 300
    region_width: int = 64
    halvings: int = 4
    matching: float = 5.0


class AttnGanOutput(NamedTuple):
    """Axes: ``B`` batch.

    Attributes:
        pictures: of each stage, [B, 3, H, W], each twice as large as the one before.
        mean, log_variance: [B, C], of the condition that was drawn for the sentence.
    """

    pictures: list[Tensor]
    mean: Tensor
    log_variance: Tensor


@register(
    section="G",
    paper="Xu et al., AttnGAN: Fine-Grained Text to Image Generation with Attentional Generative Adversarial Networks, "
    "CVPR 2018",
    tiny=AttnGanConfig(32, 2, 32, 32, 16, 16, 1, 2048, 64, 64, 32, 2),
    full=AttnGanConfig(),
    kernels=("cross_attention", "word_region_cosines", "similarity_loss"),
    parameters=106_756_590,
)
class AttnGan(nn.Module):
    """Each stage doubles the side, and each of its places reads the words that matter to it.

    The first stage knows the sentence alone, from which it draws a condition. Discriminators at every stage ask
    whether a picture is real and whether it fits the sentence; DAMSM asks whether regions of the last fit the words.

    The encoders learn to match (DAMSM), here beside the rest instead of beforehand. Padding is hidden from each
    sentence's own places (the authors' code hides that of another).

    Axes: ``B`` batch, ``T`` words, ``D`` their embedding, ``Z`` numbers of noise.
    """

    def __init__(self, config: AttnGanConfig) -> None:
        super().__init__()
        self.config = c = config
        self.sentence = SentenceEncoder(c.vocabulary, c.dim, c.word_dim)
        self.regions = RegionEncoder(c.dim, c.region_width, c.halvings)
        self.generator = Generator(c)
        first = c.size >> (c.stages - 1)
        self.discriminators: Any = nn.ModuleList(Discriminator(c, first, first << i) for i in range(c.stages))

    def forward(self, words: Tensor, z: Tensor) -> AttnGanOutput:
        """int64 [B, T] and [B, Z]"""
        return self.generator(z, self.sentence(words), lengths(words))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Of both sides, each with the other held, and of the encoders: ``pictures`` [B, 3, H, W], ``words`` [B, T]."""
        real, words, ids, c = batch["pictures"], batch["words"], batch["ids"], self.config
        encoded = self.sentence(words)
        loss = matching_loss(words, encoded, self.regions(real), ids)
        encoded = Encoded(*(x.detach() for x in encoded))
        out = self.generator(noise(len(real), c.noise, real), encoded, lengths(words))
        # The divergence of the condition from a normal distribution.
        loss = loss - 0.5 * (1 + out.log_variance - out.mean**2 - out.log_variance.exp()).mean()
        for judge, drawn in zip(self.discriminators, out.pictures, strict=True):
            whole, other = encoded.whole, encoded.whole.roll(1, 0)
            truth = F.adaptive_avg_pool2d(real, drawn.shape[-1])
            is_real, fits, other_fits = judge(truth, whole, other)
            is_drawn, drawn_fits = judge(drawn.detach(), whole)
            yes = (F.softplus(-is_real) + F.softplus(-fits)).mean() / 2
            loss = loss + yes + (F.softplus(is_drawn) + F.softplus(drawn_fits) + F.softplus(other_fits)).mean() / 3
            loss = loss + sum(F.softplus(-logits).mean() for logits in held(judge, drawn, whole))
        return loss + c.matching * matching_loss(words, encoded, held(self.regions, out.pictures[-1]), ids)

    def draw(self, words: Tensor, seed: int = 0) -> Tensor:
        """int64 [N, T] -> [N, 3, H, W]"""
        encoded = self.sentence(words)
        return self.generator(noise(len(words), self.config.noise, encoded.whole, seed), encoded, lengths(words))[0][-1]


def block(channels: int, out: int, *, up: bool = False) -> nn.Sequential:
    """Convolution, norm and a gated linear unit, after doubling the side where ``up``."""
    conv = nn.Conv2d(channels, 2 * out, 3, padding=1, bias=False)
    layers = [conv, nn.BatchNorm2d(2 * out), nn.GLU(1)]
    return nn.Sequential(*([nn.Upsample(scale_factor=2)] if up else []), *layers)


class Generator(nn.Module):
    """[B, Z], what a sentence was encoded to, and its length [B] -> :class:`AttnGanOutput`"""

    def __init__(self, c: AttnGanConfig) -> None:
        super().__init__()
        ups = (c.size >> (c.stages - 1)).bit_length() - 3
        widest = c.width << ups
        self.condition = nn.Sequential(nn.Linear(c.dim, 4 * c.condition), nn.GLU(1))
        self.first = nn.Sequential(
            nn.Linear(c.noise + c.condition, widest * 32, bias=False),
            nn.BatchNorm1d(widest * 32),
            nn.GLU(1),
            nn.Unflatten(1, (widest, 4, 4)),
            *(block(widest >> i, widest >> (i + 1), up=True) for i in range(ups)),
        )
        self.stages: Any = nn.ModuleList(Stage(c) for _ in range(c.stages - 1))
        self.pictures: Any = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c.width, 3, 3, padding=1, bias=False), nn.Tanh()) for _ in range(c.stages)
        )

    def forward(self, z: Tensor, sentence: Encoded, length: Tensor) -> AttnGanOutput:
        mean, log_variance = self.condition(sentence.whole).chunk(2, 1)
        # Of the noise that is given alone, a sentence's picture is always the same when it is drawn.
        condition = mean + (0.5 * log_variance).exp() * torch.randn_like(mean) if self.training else mean
        x = self.first(torch.cat([condition, z], 1))
        pictures = [self.pictures[0](x)]
        for stage, picture in zip(self.stages, self.pictures[1:], strict=True):
            x = stage(x, sentence.parts, length)
            pictures.append(picture(x))
        return AttnGanOutput(pictures, mean, log_variance)


class Stage(nn.Module):
    """Every place attends to the words, and both go on at twice the side."""

    def __init__(self, c: AttnGanConfig) -> None:
        super().__init__()
        self.words = nn.Linear(c.dim, c.width, bias=False)
        self.residuals: Any = nn.ModuleList(
            nn.Sequential(
                block(2 * c.width, 2 * c.width),
                nn.Conv2d(2 * c.width, 2 * c.width, 3, padding=1, bias=False),
                nn.BatchNorm2d(2 * c.width),
            )
            for _ in range(c.residuals)
        )
        self.up = block(2 * c.width, c.width, up=True)

    def forward(self, x: Tensor, words: Tensor, length: Tensor) -> Tensor:
        """[B, C, H, W], [B, T, D] and int [B] -> [B, C, 2 H, 2 W]"""
        key = self.words(words)[:, None]
        places = x.flatten(2).mT[:, None]
        read = cross_attention(places, [KeyValue(key, key, masks.key_lengths(length))], scale=1.0)
        x = torch.cat([x, read[:, 0].mT.reshape(x.shape)], 1)
        for residual in self.residuals:
            x = x + residual(x)
        return self.up(x)


class Discriminator(nn.Module):
    """[B, 3, H, W] and sentences [B, D] -> logits [B]: is it real, and does it fit each of the sentences?"""

    def __init__(self, c: AttnGanConfig, first: int, size: int) -> None:
        super().__init__()
        # Down to 4 x 4, with twice the channels each time; then back to the channels of the first stage's.
        downs, first_downs = size.bit_length() - 3, first.bit_length() - 3
        widths = [c.judge_width << i for i in range(downs)]
        top = c.judge_width << (first_downs - 1)
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, padding=1, bias=False), nn.LeakyReLU(0.2)]
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 4, 2, padding=1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
        for a in reversed(widths[first_downs:]):
            layers += [nn.Conv2d(a, a // 2, 3, padding=1, bias=False), nn.BatchNorm2d(a // 2), nn.LeakyReLU(0.2)]
        self.trunk = nn.Sequential(*layers)
        self.joint = nn.Sequential(
            nn.Conv2d(top + c.dim, top, 3, padding=1, bias=False), nn.BatchNorm2d(top), nn.LeakyReLU(0.2)
        )
        self.real, self.fits = (nn.Sequential(nn.Conv2d(top, 1, 4), nn.Flatten(0)) for _ in range(2))

    def forward(self, pictures: Tensor, *sentences: Tensor) -> list[Tensor]:
        x = self.trunk(pictures)
        joined = (torch.cat([x, each[..., None, None].expand(-1, -1, 4, 4)], 1) for each in sentences)
        return [self.real(x), *(self.fits(self.joint(each)) for each in joined)]
