"""Deep canonical correlation analysis."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.models.cca import CcaOutput
from xmkern.models.parts.correlation import canonical, total_correlation
from xmkern.models.parts.features import bag_of_words, thumbnail
from xmkern.models.registry import register


@dataclass(frozen=True)
class DccaConfig:
    """Any two views; ``ridge``: what is added to the variances, in shares of their mean."""

    side: int = 16
    vocabulary: int = 2048
    hidden: tuple[int, ...] = (1024, 1024, 1024)
    dim: int = 50
    ridge: float = 1e-3


@register(
    section="B",
    paper="Andrew et al., Deep Canonical Correlation Analysis, ICML 2013",
    tiny=DccaConfig(hidden=(256,), dim=32, ridge=0.1),
    full=DccaConfig(),
)
class Dcca(nn.Module):
    """Two networks whose outputs' total canonical correlation grows by its own gradient.

    It is of a whole batch and no sum over its pairs: a batch has to be many times as large as ``K``. The rotation to
    canonical components is solved at the end, and becomes part of the last layers.

    Axes: ``B`` pictures, ``C`` texts, ``T`` words, ``K`` components.
    """

    def __init__(self, config: DccaConfig) -> None:
        super().__init__()
        self.config = c = config
        self.picture, self.text = (_network((width, *c.hidden, c.dim)) for width in (3 * c.side**2, c.vocabulary))

    def forward(self, pictures: Tensor, words: Tensor) -> CcaOutput:
        """[B, 3, H, W] and int64 [C, T]"""
        c = self.config
        return CcaOutput(self.picture(thumbnail(pictures, c.side)), self.text(bag_of_words(words, c.vocabulary)))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Minus the total correlation of ``pictures`` [B, 3, H, W] and ``words`` [B, T]."""
        out = self(batch["pictures"], batch["words"])
        return -total_correlation(out.picture, out.text, self.config.ridge)

    @torch.no_grad()
    def fit(self, batch: Mapping[str, Tensor]) -> None:
        """Turns both outputs to the canonical components of ``pictures`` [B, 3, H, W] and ``words`` [B, T]."""
        out = self(batch["pictures"], batch["words"])
        found = canonical(out.picture, out.text, self.config.dim, self.config.ridge)
        for network, side, turn in ((self.picture, out.picture, found.x), (self.text, out.text, found.y)):
            last: Any = network[-1]
            last.bias.copy_((last.bias - side.mean(0)) @ turn)
            last.weight.copy_(turn.T @ last.weight)

    def similarity(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and int64 [C, T] -> cosines [B, C]"""
        out = self(pictures, words)
        return F.normalize(out.picture, dim=-1) @ F.normalize(out.text, dim=-1).T


class CubeRootSigmoid(nn.Module):
    """The y with y^3 / 3 + y = x: a sigmoid that does not saturate (section 4.3 of the paper)."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.sinh(torch.asinh(1.5 * x) / 3)


def _network(widths: tuple[int, ...]) -> nn.Sequential:
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), CubeRootSigmoid())]
    return nn.Sequential(*layers[:-1])
