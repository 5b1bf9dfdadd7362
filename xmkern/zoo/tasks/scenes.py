"""Say what happens in a clip, or between two pictures."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmkern.data import changes, clips
from xmkern.data.words import Vocabulary
from xmkern.zoo.tasks.base import Batch
from xmkern.zoo.tasks.captions import Captions


class _Composed(Captions):
    """Captions of what is composed of pictures: ``make(rows, generator)`` gives both."""

    shows = 256  # how many of unseen concepts

    def __init__(self, seed: int = 0, *, size: int = 32, length: int = 14, **task: Any) -> None:
        super().__init__(seed, size=size, length=length, **task)
        self.prepare()
        generator = torch.Generator().manual_seed(seed)
        self.said = [s for _ in range(8) for s in self.make(256, self.train_rows, generator)[1]]
        self.vocabulary = Vocabulary.of(self.said)
        generator = torch.Generator().manual_seed(seed)
        self._views, self._truth = self.make(self.shows, self.test_rows, generator)
        self.shown = np.arange(self.shows)

    def prepare(self) -> None:
        """What :meth:`make` needs beside the data."""

    def make(self, size: int, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        raise NotImplementedError

    def pick(self, size: int, rows: np.ndarray, generator: torch.Generator) -> Tensor:
        """Some of the rows, those without skin tones alone."""
        plain = torch.from_numpy(rows[~self.data.toned[rows]])
        return plain[torch.randint(len(plain), (size,), generator=generator)]

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        pictures, sentences = self.make(size, self.train_rows, generator)
        words = self.vocabulary.encode(sentences, self.words.shape[1])
        return {"pictures": pictures * 2 - 1, "words": torch.from_numpy(words)}

    def references(self) -> list[list[str]]:
        return [[sentence] for sentence in self._truth]

    def candidates(self) -> list[str]:
        return sorted(set(self.said))

    def view(self, part: np.ndarray) -> Tensor:
        return self._views[torch.from_numpy(part)] * 2 - 1


class Clips(_Composed):
    """CIDEr-D of what is said of clips (:mod:`xmkern.data.clips`) of unseen concepts.

    The model has ``reader(pictures [B, frames, 3, H, W])``, as for :class:`Captions`.
    """

    def make(self, size: int, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        first, second = (self.pick(size, rows, generator) for _ in range(2))
        kinds = torch.randint(len(clips.KINDS), (size,), generator=generator)
        names = tuple(clips.KINDS)
        one, other = (self.pixels[picked].float() / 255 for picked in (first, second))
        sentences = [
            clips.describe(names[kind], int(self.groups[a]), int(self.groups[b]))
            for kind, a, b in zip(kinds.tolist(), first, second, strict=True)
        ]
        return clips.compose(one, other, kinds, generator=generator), sentences


class Changes(_Composed):
    """CIDEr-D of what is said of changes (:mod:`xmkern.data.changes`) of unseen concepts.

    The model has ``reader(pictures [B, 2, 3, H, W])``, before and after, as for :class:`Captions`.
    """

    def prepare(self) -> None:
        self.variants = changes.pairs(self.data)

    def make(self, size: int, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        kinds = torch.randint(len(changes.KINDS), (size,), generator=generator)
        first, second = (self.pick(size, rows, generator) for _ in range(2))
        corner = torch.randint(4, (size,), generator=generator)
        corners = torch.stack([corner, (corner + torch.randint(1, 4, (size,), generator=generator)) % 4], 1)
        sentences = [
            changes.sentence(kind, (a, b), int(self.groups[row]))
            for kind, (a, b), row in zip(kinds.tolist(), corners.tolist(), second, strict=True)
        ]
        inside = np.isin(self.variants.rows, rows).all(1)
        for number in range(2):
            found = np.flatnonzero(inside & (self.variants.kinds == number))
            places = (kinds == number).nonzero()[:, 0]
            chosen = found[torch.randint(len(found), (len(places),), generator=generator).numpy()]
            first[places], second[places] = torch.from_numpy(self.variants.rows[chosen]).T
            for place, pair in zip(places.tolist(), chosen, strict=True):
                sentences[place] = self.variants.sentences[pair]
        before, after = (self.pixels[picked].float() / 255 for picked in (first, second))
        return changes.render(before, after, corners, kinds, generator=generator), sentences
