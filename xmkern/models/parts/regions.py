"""Regions for systems that read a detector's: the cells of a grid, with their pixels for features."""

import torch
from torch import Tensor
from torch.nn import functional as F

CELLS = 4  # a side of the grid
FEATURES = 3 * 16 * 16  # of a region, from pictures of 64 pixels
REGIONS = 1 + CELLS * CELLS


def grid_regions(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The whole picture, shrunk, and then its 4 x 4 cells, row by row.

    Args:
        pictures: [B, 3, H, W], H and W multiples of 4.

    Returns:
        Features [B, 17, 3 H W / 16], and boxes [B, 17, 4]: left, top, right, bottom in shares of the picture.
    """
    sides = pictures.shape[2] // CELLS, pictures.shape[3] // CELLS
    cells = F.unfold(pictures, sides, stride=sides).mT
    whole = F.adaptive_avg_pool2d(pictures, sides).flatten(1)[:, None]
    steps = torch.arange(CELLS, dtype=pictures.dtype, device=pictures.device) / CELLS
    top, left = torch.meshgrid(steps, steps, indexing="ij")
    boxes = torch.stack([left, top, left + 1 / CELLS, top + 1 / CELLS], -1).view(-1, 4)
    boxes = torch.cat([boxes.new_tensor([[0.0, 0.0, 1.0, 1.0]]), boxes])
    return torch.cat([whole, cells], 1), boxes.expand(len(pictures), -1, -1)
