"""Annotate a picture with words."""

from typing import Any

import numpy as np
import torch

from xmkern.data.words import SPECIAL
from xmkern.metrics import mean_average_precision
from xmkern.models.parts.features import bag_of_words
from xmkern.zoo.tasks.base import Batch, Score, Task


class Annotation(Task):
    """Mean average precision of all words, ranked for pictures of concepts never seen: those of the name are right.

    A batch has besides ``labels`` int64 [B], a word of each name. The model has ``word_scores(pictures [B, 3, H, W])
    -> [B, V]``.
    """

    metric = "mAP"
    baseline = "commonest words"

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        batch = super().batch(size, generator)
        # Rare names have words of their own and nothing else.
        weight = (batch["words"] >= SPECIAL).float()
        weight[~weight.any(1), 0] = 1
        drawn = torch.multinomial(weight, 1, generator=generator)
        return batch | {"labels": batch["words"].gather(1, drawn)[:, 0]}

    @torch.inference_mode()
    def evaluate(self, model: Any) -> Score:
        rows = self.test_rows[~self.data.toned[self.test_rows]]
        rows = rows[np.unique(self.data.pictures[rows], return_index=True)[1]]
        size = len(self.vocabulary)
        right = bag_of_words(self.words[rows], size)[:, SPECIAL:] > 0
        scores = model.word_scores(self.pictures(rows))[:, SPECIAL:size]
        # The vocabulary is ordered by how common a word is.
        common = torch.arange(size - SPECIAL).expand_as(right)
        return Score(mean_average_precision(-scores, right), mean_average_precision(common, right))
