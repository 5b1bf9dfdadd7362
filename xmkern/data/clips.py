"""Short clips of one emoji picture that moves, grows, fades or becomes another, and what happens in words.

>>> from xmkern.data import clips, emoji
>>> data = emoji.load(size=32, languages=("en",))
>>> clips.describe("left", data.groups[0])                             # "a face moves to the left"
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["KINDS", "NOUNS", "compose", "describe"]

# What happens, in the words that follow the thing.
KINDS = {
    "left": "moves to the left",
    "right": "moves to the right",
    "up": "moves up",
    "down": "moves down",
    "grow": "grows",
    "shrink": "shrinks",
    "appear": "appears",
    "vanish": "vanishes",
    "become": "becomes",
}
# What a picture of each of Unicode's nine groups is called, in the order of ``EmojiSet.group_names``.
NOUNS = ("a face", "a person", "an animal", "a dish", "a place", "a game", "a thing", "a symbol", "a flag")

_NAMES = tuple(KINDS)
_WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def describe(kind: str, group: int, other_group: int | None = None) -> str:
    """What is to be said of a clip: ``"an animal becomes a flag"``.

    Args:
        kind: one of ``KINDS``.
        group: of the picture, index into ``NOUNS``.
        other_group: of the picture that it becomes; read for ``"become"`` alone.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    said = f"{NOUNS[group]} {KINDS[kind]}"
    if kind != "become":
        return said
    if other_group is None:
        raise ValueError("other_group must be given where a picture becomes another")
    return f"{said} {NOUNS[other_group]}"


def compose(
    pictures: Tensor, others: Tensor, kinds: Tensor, *, frames: int = 6, generator: torch.Generator | None = None
) -> Tensor:
    """Clips on white.

    Args:
        pictures: float [B, 3, H, W], 0 (black) to 1 (white).
        others: as pictures: what those whose kind is "become" become.
        kinds: int64 [B], numbers of ``KINDS`` in their order.
        frames: of a clip, at least 2.
        generator: of place, size and pace, which differ a little from clip to clip.

    Returns:
        float [B, frames, 3, H, W].
    """
    if frames < 2:
        raise ValueError(f"frames must be at least 2, not {frames}")
    count = len(pictures)

    def draw(low: float, high: float) -> Tensor:
        return torch.rand(count, 1, generator=generator) * (high - low) + low

    time = torch.linspace(0, 1, frames).expand(count, -1)
    x, y, size = (draw(-0.15, 0.15) + 0 * time, draw(-0.15, 0.15) + 0 * time, draw(0.5, 0.65) + 0 * time)
    pace = draw(0.3, 0.5)
    shown, mixed = torch.ones_like(time), torch.zeros_like(time)
    for number, kind in enumerate(_NAMES):
        of = (kinds == number)[:, None]
        if kind in _WAYS:
            across, down = _WAYS[kind]
            x = torch.where(of, across * pace * (2 * time - 1) + x, x)
            y = torch.where(of, down * pace * (2 * time - 1) + y, y)
        elif kind in ("grow", "shrink"):
            grown = time if kind == "grow" else 1 - time
            size = torch.where(of, (0.4 + grown * (0.8 + pace)).clamp(max=1.0) * 0.95, size)
        elif kind in ("appear", "vanish"):
            shown = torch.where(of, time if kind == "appear" else 1 - time, shown)
        else:
            mixed = torch.where(of, time, mixed)
    zero = torch.zeros_like(size)
    rows = torch.stack([1 / size, zero, -x / size, zero, 1 / size, -y / size], -1).view(-1, 2, 3)
    ink = (1 - pictures)[:, None] * (1 - mixed)[..., None, None, None] + (1 - others)[:, None] * mixed[
        ..., None, None, None
    ]
    ink = (ink * shown[..., None, None, None]).flatten(0, 1)
    grid = F.affine_grid(rows.to(ink.device), list(ink.shape), align_corners=False)
    return 1 - F.grid_sample(ink, grid, align_corners=False).unflatten(0, (count, frames))
