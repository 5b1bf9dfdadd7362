"""What a task is, and the pictures and names that all share."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xmkern.data import emoji
from xmkern.data.augment import move
from xmkern.data.words import Vocabulary

# Named tensors of a training step. Names mean the same in all tasks:
#   pictures  float [B, 3, H, W], -1 (black) to 1 (white)
#   words     int64 [B, T] in the task's vocabulary, between BEGIN and END, padded with 0
#   ids       int64 [B], equal where the picture is the same
#   groups    int64 [B], which of Unicode's nine groups
#   rows      int64 [B], which rows of the data
Batch = dict[str, Tensor]


class Score(NamedTuple):
    """What a model reached, and what is reached without it (or without one of its modalities)."""

    value: float
    baseline: float


class Task(ABC):
    """Pictures and names, split by concept; what is learnt is measured on concepts that were never seen.

    Args:
        seed: of the split.
        size: side of the pictures, in pixels.
        vocabulary, length: how many words there are, and stand in a sentence, at most.
        languages: of the names; the first is the one that ``words`` holds.
        grouped: whether a name follows the first word of its group, "flags: Ireland", which is known also where the
            name is new.
    """

    metric: ClassVar[str]
    baseline: ClassVar[str]
    moved: ClassVar[bool] = True  # whether pictures to learn from are turned, stretched and shifted

    def __init__(
        self,
        seed: int = 0,
        *,
        size: int = 64,
        vocabulary: int = 2048,
        length: int = 16,
        languages: tuple[str, ...] = ("en",),
        grouped: bool = False,
    ) -> None:
        self.data = data = emoji.load(size, languages)
        self.train_rows, self.test_rows = data.split_by_concept(seed, (0.85, 0.15))
        # What most tasks measure on: each picture of an unseen concept once, without skin tones.
        rows = self.test_rows[~data.toned[self.test_rows]]
        self.unseen = rows[np.unique(data.pictures[rows], return_index=True)[1]]
        self.names = names = list(data.names[languages[0]])
        if grouped:
            names[:] = [f"{data.group_names[g].split()[0]}: {name}" for g, name in zip(data.groups, names, strict=True)]
        self.vocabulary = Vocabulary.of((names[row] for row in self.train_rows), vocabulary)
        self.pixels = torch.from_numpy(data.images).permute(0, 3, 1, 2)
        self.words = torch.from_numpy(self.vocabulary.encode(names, length))
        self.ids, self.groups = torch.from_numpy(data.pictures), torch.from_numpy(data.groups)
        # The 2,030 skin tones would drown the rest, and so would concepts of many variants.
        weight = np.where(data.toned, 0.25, 1.0) / np.sqrt(np.bincount(data.roots)[data.roots])
        self._weights = torch.from_numpy(weight[self.train_rows])

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Rows to learn from, int64 [size], none twice."""
        drawn = torch.multinomial(self._weights, size, generator=generator)
        return torch.from_numpy(self.train_rows)[drawn]

    def pictures(self, rows: Tensor | np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        """float [B, 3, H, W] in -1 to 1; turned, stretched and shifted a little where a generator is given."""
        pictures = self.pixels[torch.as_tensor(rows)].float() / 255
        if generator is not None:
            pictures = move(pictures, turn=0.25, stretch=0.25, shift=0.15, generator=generator)
        return pictures * 2 - 1

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """What a training step sees."""
        rows = self.draw(size, generator)
        return {
            "pictures": self.pictures(rows, generator if self.moved else None),
            "words": self.words[rows],
            "ids": self.ids[rows],
            "groups": self.groups[rows],
            "rows": rows,
        }

    @abstractmethod
    def evaluate(self, model: Any) -> Score:
        """The metric, on what was never seen; the model is in evaluation mode."""

    def picture(self, model: Any) -> np.ndarray | None:
        """uint8 [H, W, 3], what the model draws, for people to look at; None for tasks without pictures."""
        return None
