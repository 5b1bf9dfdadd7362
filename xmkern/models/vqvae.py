"""VQ-VAE."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.models.registry import register


@dataclass(frozen=True)
class VqVaeConfig:
    """For 128 x 128 pixels, of which 32 x 32 codes remain; ``commitment``: how strongly the encoder keeps to codes."""

    size: int = 128
    hidden: int = 256
    residual: int = 256
    codes: int = 512
    dim: int = 64
    commitment: float = 0.25

    @property
    def side(self) -> int:
        """Of the map of codes."""
        return self.size // 4


class VqVaeOutput(NamedTuple):
    """Axes: ``B`` batch, ``h``, ``w`` the map of codes, ``D`` their size.

    Attributes:
        pictures: [B, 3, H, W], rebuilt.
        encoded: [B, D, h, w], before the codes.
        quantized: [B, D, h, w], the codes themselves.
        codes: int64 [B, h, w].
    """

    pictures: Tensor
    encoded: Tensor
    quantized: Tensor
    codes: Tensor


class Residual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x))))"""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(width, inner, 3, padding=1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.inner(x.relu()).relu())


@register(
    section="E",
    paper="van den Oord et al., Neural Discrete Representation Learning, NIPS 2017",
    tiny=VqVaeConfig(32, 64, 32, 128, 32),
    full=VqVaeConfig(),
)
class VqVae(nn.Module):
    """An autoencoder whose middle is a map of the nearest of a few learnt vectors.

    The gradient of the codes goes to the encoder as if nothing had been rounded; the codes follow the encoder.

    Axes: ``B`` batch, ``h``, ``w`` the map of codes, ``K`` codes of size ``D``.
    """

    def __init__(self, config: VqVaeConfig) -> None:
        super().__init__()
        self.config = c = config
        self.encoder = nn.Sequential(
            nn.Conv2d(3, c.hidden, 4, 2, 1), nn.ReLU(), nn.Conv2d(c.hidden, c.hidden, 4, 2, 1),
            Residual(c.hidden, c.residual), Residual(c.hidden, c.residual), nn.ReLU(), nn.Conv2d(c.hidden, c.dim, 1),
        )  # fmt: skip
        self.codes = nn.Parameter(torch.empty(c.codes, c.dim).uniform_(-1 / c.codes, 1 / c.codes))
        self.decoder = nn.Sequential(
            nn.Conv2d(c.dim, c.hidden, 3, padding=1), Residual(c.hidden, c.residual), Residual(c.hidden, c.residual),
            nn.ReLU(), nn.ConvTranspose2d(c.hidden, c.hidden, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(c.hidden, 3, 4, 2, 1),
        )  # fmt: skip

    def nearest(self, encoded: Tensor) -> Tensor:
        """[B, D, h, w] -> int64 [B, h, w]"""
        x = encoded.movedim(1, -1)
        return (self.codes.square().sum(1) - 2 * x @ self.codes.T).argmin(-1)

    def encode(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> codes int64 [B, h, w]"""
        return self.nearest(self.encoder(pictures))

    def decode(self, codes: Tensor) -> Tensor:
        """int64 [B, h, w] -> [B, 3, H, W]"""
        return self.decoder(self.codes[codes].movedim(-1, 1))

    def forward(self, pictures: Tensor) -> VqVaeOutput:
        """[B, 3, H, W]"""
        encoded = self.encoder(pictures)
        codes = self.nearest(encoded.detach())
        quantized = self.codes[codes].movedim(-1, 1)
        straight = encoded + (quantized - encoded).detach()
        return VqVaeOutput(self.decoder(straight), encoded, quantized, codes)

    def reconstruct(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> the same, through its codes"""
        return self(pictures).pictures

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """|x - rebuilt x|^2 + |sg(z) - e|^2 + commitment |z - sg(e)|^2 of ``pictures`` [B, 3, H, W], means."""
        return self.error(self(batch["pictures"]), batch["pictures"])

    def error(self, out: VqVaeOutput, pictures: Tensor) -> Tensor:
        """The loss of what came out for pictures [B, 3, H, W]."""
        moved = F.mse_loss(out.quantized, out.encoded.detach())
        kept = F.mse_loss(out.encoded, out.quantized.detach())
        return F.mse_loss(out.pictures, pictures) + moved + self.config.commitment * kept
