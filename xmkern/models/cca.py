"""Canonical correlation analysis."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.models.parts.correlation import canonical, project, total_correlation
from xmkern.models.parts.features import bag_of_words, thumbnail
from xmkern.models.registry import register


@dataclass(frozen=True)
class CcaConfig:
    """Any two views; ``ridge``: what is added to the variances, in shares of their mean, 0 in the paper."""

    side: int = 16
    vocabulary: int = 2048
    dim: int = 128
    ridge: float = 0.0


class CcaOutput(NamedTuple):
    """Axes: ``B`` pictures, ``C`` texts, ``K`` components, the most correlated first.

    Attributes:
        picture: [B, K].
        text: [C, K].
    """

    picture: Tensor
    text: Tensor


@register(
    section="B",
    paper="Hotelling, Relations Between Two Sets of Variates, Biometrika 1936",
    tiny=CcaConfig(8, dim=64, ridge=1.0),
    full=CcaConfig(),
    parity="sklearn.cross_decomposition.CCA",
)
class Cca(nn.Module):
    """Linear maps of both views whose components correlate most, solved in closed form.

    The views are a picture's thumbnail and a sentence's bag of words.

    Axes: ``B`` pictures, ``C`` texts, ``T`` words, ``F`` and ``G`` features of both, ``K`` components.
    """

    def __init__(self, config: CcaConfig) -> None:
        super().__init__()
        self.config = c = config
        self.picture_out, self.text_out = nn.Linear(3 * c.side**2, c.dim), nn.Linear(c.vocabulary, c.dim)

    def views(self, pictures: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] and int64 [C, T] -> [B, F] and [C, G]"""
        return thumbnail(pictures, self.config.side), bag_of_words(words, self.config.vocabulary)

    def forward(self, pictures: Tensor, words: Tensor) -> CcaOutput:
        """[B, 3, H, W] and int64 [C, T]"""
        picture, text = self.views(pictures, words)
        return CcaOutput(self.picture_out(picture), self.text_out(text))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Minus the total correlation of ``pictures`` [B, 3, H, W] and ``words`` [B, T], which ``fit`` makes least."""
        out = self(batch["pictures"], batch["words"])
        return -total_correlation(out.picture, out.text, self.config.ridge)

    @torch.no_grad()
    def fit(self, batch: Mapping[str, Tensor]) -> None:
        """Solves for ``pictures`` [B, 3, H, W] and ``words`` [B, T]."""
        x, y = (view.double() for view in self.views(batch["pictures"], batch["words"]))
        found = canonical(x, y, self.config.dim, self.config.ridge)
        project(self.picture_out, x.mean(0), found.x)
        project(self.text_out, y.mean(0), found.y)

    def similarity(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and int64 [C, T] -> cosines [B, C]"""
        out = self(pictures, words)
        return F.normalize(out.picture, dim=-1) @ F.normalize(out.text, dim=-1).T
