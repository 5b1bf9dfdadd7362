"""What generated pictures are worth: how near their statistics are to real ones', and whether words fit them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from xmkern.metrics.ranking import _array

__all__ = ["frechet_distance", "picture_statistics", "r_precision"]

_CELLS = 2  # a side of the grid on which statistics are taken


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """|mean x - mean y|^2 + tr(Cx + Cy - 2 (Cx Cy)^(1/2)), of two normal distributions that are fitted to features
    (Dowson and Landau, 1982; as "FID" over those of an Inception network, Heusel et al., 2017).

    Args:
        x, y: ``[N, F]`` and ``[M, F]``, of at least two rows.

    Raises:
        ValueError: an argument's shape does not fit; the message names it.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    for name, features in (("x", x), ("y", y)):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"{name} must be [rows, features] of at least two rows, got shape {features.shape}")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"y must have {x.shape[1]} features as x has, got {y.shape[1]}")
    one, other = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    one, other = np.atleast_2d(one), np.atleast_2d(other)
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    # (Cx Cy)^(1/2) has the trace of the root of the symmetric root(Cx) Cy root(Cx).
    cross = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(min=0)).sum()
    distance = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(one) + np.trace(other) - 2 * cross
    return max(0.0, float(distance))  # of equals, what rounding leaves may lie below 0


def picture_statistics(pictures: Tensor) -> Tensor:
    """Colours and edges of each quarter of a picture: 40 numbers that no network had to learn.

    Of each of 2 x 2 cells: mean and standard deviation of each colour, and how strong the edges are, along rows,
    columns and both diagonals (mean absolute difference of neighbours' brightness).

    Args:
        pictures: float [N, 3, H, W], -1 to 1 (what lies outside is clamped), H and W even.

    Returns:
        [N, 40], as they come: means 12, deviations 12, edges 16.
    """
    if pictures.dim() != 4 or pictures.shape[1] != 3 or pictures.shape[2] % _CELLS or pictures.shape[3] % _CELLS:
        raise ValueError(f"pictures must be [N, 3, H, W] of even sides, got {list(pictures.shape)}")
    x = pictures.double().clamp(-1, 1)  # of flat cells, float32 would take rounding for a deviation
    mean = F.adaptive_avg_pool2d(x, _CELLS)
    deviation = (F.adaptive_avg_pool2d(x**2, _CELLS) - mean**2).clamp(min=0).sqrt()
    brightness = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    H, W = x.shape[2:]

    def neighbour(down: int, right: int) -> Tensor:
        return brightness[:, :, 1 + down : 1 + down + H, 1 + right : 1 + right + W]

    edges = torch.cat([(neighbour(*way) - neighbour(0, 0)).abs() for way in ((0, 1), (1, 0), (1, 1), (1, -1))], 1)
    parts = mean, deviation, F.adaptive_avg_pool2d(edges, _CELLS)
    return torch.cat([part.flatten(1) for part in parts], 1).float()


def r_precision(scores: Any, relevant: Any) -> float:
    """Share of relevant candidates among the first R, R being how many of a query's are relevant; mean over queries
    (as AttnGAN's, Xu et al., 2018, with one sentence of R = 1 among a hundred).

    Args:
        scores: ``[Q, N]``, higher is better. Among equals the first counts as best.
        relevant: bool ``[Q, N]``; queries without any are left out.

    Returns:
        In [0, 1]; NaN when no query has anything relevant.
    """
    s, r = _array(scores, "scores", "Q, N"), _array(relevant, "relevant", "Q, N").astype(bool)
    if s.shape != r.shape:
        raise ValueError(f"relevant must be [Q, N] as scores is, {s.shape}, got {r.shape}")
    if s.dtype.kind == "f" and np.isnan(s).any():
        raise ValueError("scores must not hold NaN")
    counts = r.sum(1)
    # Backwards in and backwards out, for not every number has a negative: the best first, of equals the first.
    order = s.shape[1] - 1 - np.argsort(s[:, ::-1], axis=1, kind="stable")[:, ::-1]
    ranked = np.take_along_axis(r, order, axis=1)
    found = (ranked & (np.arange(s.shape[1]) < counts[:, None])).sum(1)
    return float((found[counts > 0] / counts[counts > 0]).mean()) if counts.any() else float("nan")
