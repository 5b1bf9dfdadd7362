"""Pairs of emoji pictures, before and after a change, and the change in words.

Tones and genders change as the set's own variants do; things move or are joined by another; or nothing has changed but
the viewpoint, which differs a little in every pair.

>>> from xmkern.data import changes, emoji
>>> found = changes.pairs(emoji.load(size=32, languages=("en",)))
>>> found.rows[0], found.sentences[0]              # two rows of the data, "the skin tone changes from light to dark"
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xmkern.data.augment import move
from xmkern.data.clips import NOUNS
from xmkern.data.emoji import EmojiSet

__all__ = ["CORNERS", "KINDS", "NOTHING", "Variants", "pairs", "render"]

KINDS = ("tone", "gender", "position", "added", "none")
CORNERS = {"upper left": (0, 0), "upper right": (0, 1), "lower left": (1, 0), "lower right": (1, 1)}
NOTHING = "nothing changes"

_TONE = re.compile(r"\b(medium-light|medium-dark|light|medium|dark) skin tone\b")
_GENDER = re.compile(r"\b(man|woman|person)\b")


@dataclass(frozen=True)
class Variants:
    """Pairs of variants of one thing.

    Attributes:
        rows: int64 ``[M, 2]``, before and after.
        kinds: int64 ``[M]``, 0 where the tone differs and 1 where the gender does.
        sentences: what changes, ``[M]``.
    """

    rows: np.ndarray
    kinds: np.ndarray
    sentences: tuple[str, ...]


def pairs(data: EmojiSet) -> Variants:
    """All ordered pairs of rows whose English names differ by one skin tone or by one man, woman or person."""
    if "en" not in data.names:
        raise ValueError(f"data must have English names, not only {', '.join(data.names)}")
    found: list[tuple[int, int, int, str]] = []
    for kind, pattern in enumerate((_TONE, _GENDER)):
        groups: dict[tuple[int, str], list[tuple[int, str]]] = {}
        for row, name in enumerate(data.names["en"]):
            match = pattern.findall(name.lower())
            if len(match) == 1:
                key = int(data.roots[row]), pattern.sub("*", name.lower())
                groups.setdefault(key, []).append((row, match[0]))
        for members in groups.values():
            for a, before in members:
                for b, after in members:
                    if data.pictures[a] != data.pictures[b]:
                        said = f"the skin tone changes from {before} to {after}"
                        found.append((a, b, kind, said if kind == 0 else f"the {before} becomes a {after}"))
    return Variants(
        rows=np.array([row[:2] for row in found]).reshape(-1, 2),
        kinds=np.array([row[2] for row in found], np.int64),
        sentences=tuple(row[3] for row in found),
    )


def render(
    before: Tensor, after: Tensor, corners: Tensor, kinds: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Scenes of two by two corners, before and after, each seen from a viewpoint of its own.

    Args:
        before: float [B, 3, H, W], 0 to 1: what stands in the scene.
        after: as before: its variant (tone, gender), or what is added; not read for the other kinds.
        corners: int64 [B, 2], numbers of ``CORNERS``: where the thing stands, and another where it goes, or where
            what is added stands.
        kinds: int64 [B], numbers of ``KINDS``.
        generator: of the viewpoints.

    Returns:
        float [B, 2, 3, H, W].
    """
    side = before.shape[-1] // 2
    small, other = (torch.nn.functional.adaptive_avg_pool2d(1 - x, side) for x in (before, after))
    scenes = torch.zeros(len(before), 2, 3, 2, 2, side, side)
    rows = torch.arange(len(before))
    (up, left), (up_to, left_to) = ((c // 2, c % 2) for c in corners.T)
    variant, moved, added = kinds <= 1, kinds == 2, kinds == 3
    scenes[rows, 0, :, up, left] = small
    scenes[rows, 1, :, torch.where(moved, up_to, up), torch.where(moved, left_to, left)] = torch.where(
        variant[:, None, None, None], other, small
    )
    scenes[rows[added], 1, :, up_to[added], left_to[added]] = other[added]
    pictures = 1 - scenes.permute(0, 1, 2, 3, 5, 4, 6).reshape(len(before) * 2, 3, 2 * side, 2 * side)
    seen = move(pictures, turn=0.1, stretch=0.05, shift=0.06, generator=generator)
    return seen.unflatten(0, (-1, 2))


def sentence(kind: int, corners: tuple[int, int], group: int) -> str:
    """Of what moves or is added, or that nothing changes; for tone and gender see :class:`Variants`."""
    names = tuple(CORNERS)
    if KINDS[kind] == "position":
        return f"it moves from the {names[corners[0]]} to the {names[corners[1]]}"
    if KINDS[kind] == "added":
        return f"{NOUNS[group]} is added in the {names[corners[1]]}"
    return NOTHING
