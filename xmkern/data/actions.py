"""Short clips in which a real picture does something: what it does is known, so the clip can be described.

>>> clips = compose(pictures, torch.tensor([ACTIONS.index("moves left")]), frames=6)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ACTIONS", "compose"]

# What a picture can do, each in two words.
ACTIONS = (
    "moves left", "moves right", "moves up", "moves down", "grows big", "shrinks away", "fades in", "fades out",
)  # fmt: skip

# Of each action: way right and down in halves of the frame's side, logarithm of the size, ink; from the first frame to
# the last, symmetric about the middle of the clip.
_CHANGES = torch.tensor(
    [
        [-0.5, 0.0, 0.0, 0.0],
        [0.5, 0.0, 0.0, 0.0],
        [0.0, -0.5, 0.0, 0.0],
        [0.0, 0.5, 0.0, 0.0],
        [0.0, 0.0, 0.8, 0.0],
        [0.0, 0.0, -0.8, 0.0],
        [0.0, 0.0, 0.0, 0.8],
        [0.0, 0.0, 0.0, -0.8],
    ]
)


def compose(
    pictures: Tensor, actions: Tensor, *, frames: int, size: int = 32, generator: torch.Generator | None = None
) -> Tensor:
    """Shows each picture at about half of a frame's size, near the middle, while it does what its action says.

    Args:
        pictures: float [B, 3, H, W] of -1 (black) to 1 (white), on white.
        actions: int64 [B], places in ``ACTIONS``.
        frames: F, at least 2.
        size: side of a frame, in pixels.
        generator: where it stands and how large it is are drawn from this.

    Returns:
        [B, F, 3, size, size], like the pictures.
    """
    if frames < 2:
        raise ValueError(f"frames must be at least 2, not {frames}")
    count = len(pictures)
    drawn = torch.rand(count, 3, generator=generator) * 2 - 1
    middle = torch.cat([0.25 * drawn[:, :2], -0.7 + 0.15 * drawn[:, 2:], torch.full((count, 1), 0.6)], 1)
    time = torch.linspace(-0.5, 0.5, frames)
    state = middle[:, None] + time[None, :, None] * _CHANGES[actions][:, None]
    way, log_size, ink = state.split([2, 1, 1], -1)
    # A grid maps the frame's places to the picture's.
    shrink = (-log_size).exp()
    matrix = torch.cat([torch.diag_embed(shrink.expand(-1, -1, 2)), (-way * shrink)[..., None]], -1)
    grid = F.affine_grid(matrix.flatten(0, 1), [count * frames, 3, size, size], align_corners=False)
    shown = F.grid_sample(1 - pictures.repeat_interleave(frames, 0), grid.to(pictures), align_corners=False)
    return 1 - shown.unflatten(0, (count, frames)) * ink[..., None, None].to(pictures)
