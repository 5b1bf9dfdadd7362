"""Kernel canonical correlation analysis."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.models.cca import CcaOutput
from xmkern.models.parts.correlation import canonical, project, total_correlation
from xmkern.models.parts.features import bag_of_words, thumbnail
from xmkern.models.registry import register


@dataclass(frozen=True)
class KccaConfig:
    """Any two views.

    Attributes:
        points: how many pairs it is solved on, and kept.
        rank: how many principal components of a kernel are used.
        width: of the Gaussian kernel, in root mean squared distances of two points.
        ridge: what is added to the variances of the components, in shares of their mean.
    """

    side: int = 16
    vocabulary: int = 2048
    points: int = 2000
    rank: int = 2000
    dim: int = 128
    width: float = 1.0
    ridge: float = 1.0


@register(
    section="B",
    paper="Lai and Fyfe, Kernel and Nonlinear Canonical Correlation Analysis, Int. J. Neural Systems 2000",
    tiny=KccaConfig(8, points=1000, rank=300, dim=64),
    full=KccaConfig(),
)
class Kcca(nn.Module):
    """CCA between the feature spaces of two Gaussian kernels: maps are weights of the points that it was solved on.

    Axes: ``B`` pictures, ``C`` texts, ``T`` words, ``N`` points, ``K`` components.
    """

    picture_points: Tensor
    text_points: Tensor

    def __init__(self, config: KccaConfig) -> None:
        super().__init__()
        self.config = c = config
        self.register_buffer("picture_points", torch.randn(c.points, 3 * c.side**2))
        self.register_buffer("text_points", torch.randn(c.points, c.vocabulary))
        self.picture_out, self.text_out = nn.Linear(c.points, c.dim), nn.Linear(c.points, c.dim)

    def kernels(self, pictures: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] and int64 [C, T] -> [B, N] and [C, N], what is like which point."""
        c = self.config
        views = thumbnail(pictures, c.side), bag_of_words(words, c.vocabulary).to(self.text_points)
        points = self.picture_points, self.text_points
        return _gaussian(views[0], points[0], c.width), _gaussian(views[1], points[1], c.width)

    def forward(self, pictures: Tensor, words: Tensor) -> CcaOutput:
        """[B, 3, H, W] and int64 [C, T]"""
        picture, text = self.kernels(pictures, words)
        return CcaOutput(self.picture_out(picture), self.text_out(text))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Minus the total correlation of ``pictures`` [B, 3, H, W] and ``words`` [B, T]."""
        out = self(batch["pictures"], batch["words"])
        return -total_correlation(out.picture, out.text, self.config.ridge)

    @torch.no_grad()
    def fit(self, batch: Mapping[str, Tensor]) -> None:
        """Solves for ``pictures`` [N, 3, H, W] and ``words`` [N, T], which become the points.

        Raises:
            ValueError: there are not as many as the configuration says.
        """
        c = self.config
        if len(batch["words"]) != c.points:
            raise ValueError(f"batch must have config.points = {c.points} rows, not {len(batch['words'])}")
        self.picture_points.copy_(thumbnail(batch["pictures"], c.side))
        self.text_points.copy_(bag_of_words(batch["words"], c.vocabulary))
        kernels = [kernel.double() for kernel in self.kernels(batch["pictures"], batch["words"])]
        (x, x_back), (y, y_back) = (_components(kernel, c.rank) for kernel in kernels)
        found = canonical(x, y, c.dim, c.ridge)
        project(self.picture_out, kernels[0].mean(0), x_back @ found.x)
        project(self.text_out, kernels[1].mean(0), y_back @ found.y)

    def similarity(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and int64 [C, T] -> cosines [B, C]"""
        out = self(pictures, words)
        return F.normalize(out.picture, dim=-1) @ F.normalize(out.text, dim=-1).T


def _gaussian(x: Tensor, points: Tensor, width: float) -> Tensor:
    """exp(-|x - p|^2 / (2 s^2)), s^2 the mean squared distance of two points times width^2: [B, N]"""
    squared = 2 * points.var(0, correction=0).sum() * width**2
    return torch.exp(-torch.cdist(x, points).square() / (2 * squared))


def _components(kernel: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The principal components of the points in a kernel's space, [N, R], and what maps kernels to them, [N, R].

    Weights of one component sum to 0, so that kernels need not be centred over the points.
    """
    centred = kernel - kernel.mean(0)
    centred = centred - centred.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh(centred)
    values, vectors = values[-rank:], vectors[:, -rank:]
    there = values > values[-1] * 1e-10
    values, vectors = values[there], vectors[:, there]
    return vectors * values.sqrt(), vectors / values.sqrt()
