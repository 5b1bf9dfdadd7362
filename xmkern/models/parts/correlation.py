"""Canonical correlations (Hotelling, 1936)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Canonical(NamedTuple):
    """Axes: ``F`` features of x, ``G`` of y, ``K`` components, the most correlated first.

    Attributes:
        x: [F, K], what maps x to components of variance 1 that are not correlated with one another.
        y: [G, K].
        correlations: [K], of the components of x with those of y.
    """

    x: Tensor
    y: Tensor
    correlations: Tensor


def whitened(x: Tensor, y: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """The factors L and M of the covariances of x and y, L L^T and M M^T, and L^-1 cov(x, y) M^-T.

    Args:
        x, y: [N, F] and [N, G], rows that belong together.
        ridge: what is added to the variances, in shares of their mean.
    """
    x, y = x - x.mean(0), y - y.mean(0)
    factors = []
    for side in (x, y):
        covariance = side.T @ side / (len(side) - 1)
        covariance.diagonal().add_(ridge * covariance.diagonal().mean())
        factors.append(torch.linalg.cholesky(covariance))
    left, right = factors
    across = torch.linalg.solve_triangular(left, x.T @ y / (len(x) - 1), upper=False)
    return left, right, torch.linalg.solve_triangular(right.T, across, upper=True, left=False)


def canonical(x: Tensor, y: Tensor, components: int, ridge: float = 0.0) -> Canonical:
    """The ``components`` directions in which x [N, F] and y [N, G] correlate most, in closed form."""
    left, right, across = whitened(x, y, ridge)
    u, correlations, vt = torch.linalg.svd(across, full_matrices=False)
    return Canonical(
        torch.linalg.solve_triangular(left.T, u[:, :components], upper=True),
        torch.linalg.solve_triangular(right.T, vt[:components].T, upper=True),
        correlations[:components],
    )


def total_correlation(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """The sum of all canonical correlations, with gradients (Andrew et al., 2013)."""
    return torch.linalg.svdvals(whitened(x, y, ridge)[2]).sum()


@torch.no_grad()
def project(layer: nn.Linear, mean: Tensor, directions: Tensor) -> None:
    """Makes a layer centre its input, of ``mean`` [F], and map it by ``directions`` [F, K]."""
    layer.weight.copy_(directions.T)
    layer.bias.copy_(-mean @ directions)
