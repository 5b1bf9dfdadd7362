"""Variations of pictures on white."""

import torch
from torch import Tensor
from torch.nn import functional as F


def move(
    pictures: Tensor, *, turn: float, stretch: float, shift: float, generator: torch.Generator | None = None
) -> Tensor:
    """Turns, stretches and shifts each picture by amounts drawn for it; white comes in at the borders.

    Args:
        pictures: float [B, C, H, W] of 0 (black) to 1 (white).
        turn: the greatest angle, in radians, either way.
        stretch: the greatest logarithm of a side's factor, either way.
        shift: the greatest way, in halves of a side.
        generator: what is drawn from.

    Returns:
        As pictures.
    """
    count = len(pictures)

    def draw(columns: int, most: float) -> Tensor:
        return (torch.rand(count, columns, generator=generator) * 2 - 1) * most

    angle, factor, way = draw(1, turn), draw(2, stretch).exp(), draw(2, shift)
    rows = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(count, 2, 2) * factor[:, None]
    grid = F.affine_grid(torch.cat([rows, way[..., None]], 2), list(pictures.shape), align_corners=False)
    return 1 - F.grid_sample(1 - pictures, grid.to(pictures.device), align_corners=False)
