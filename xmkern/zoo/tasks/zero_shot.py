"""Say what is on a picture of a thing that was never on a picture before."""

from typing import Any

import numpy as np
import torch

from xmkern.data.vectors import word_vectors
from xmkern.metrics import recall_at_k
from xmkern.zoo.tasks.base import Batch, Score, Task


class ZeroShot(Task):
    """Hits among the first ten labels, which are the concepts never seen, of their pictures (no skin tones).

    A batch has besides ``label_vectors`` float [L, E], of length 1, of the concepts learnt from, learnt from text
    alone, and ``labels`` int64 [B] into them. The model has ``label_scores(pictures [B, 3, H, W], label_vectors
    [L, E]) -> [B, L]``.
    """

    metric = "hit@10"
    baseline = "chance"

    def __init__(self, seed: int = 0, **task: Any) -> None:
        super().__init__(seed, **task)
        vectors = torch.from_numpy(word_vectors(self.data.root_names))
        seen, unseen = (np.unique(self.data.roots[rows]) for rows in (self.train_rows, self.test_rows))
        self.seen, self.unseen = vectors[seen], vectors[unseen]
        # Of each row, in the labels of its own side.
        self.labels = torch.full((len(self.data),), -1)
        for rows, known in ((self.train_rows, seen), (self.test_rows, unseen)):
            self.labels[rows] = torch.from_numpy(np.searchsorted(known, self.data.roots[rows]))

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        batch = super().batch(size, generator)
        return batch | {"labels": self.labels[batch["rows"]], "label_vectors": self.seen}

    @torch.inference_mode()
    def evaluate(self, model: Any) -> Score:
        rows = self.test_rows[~self.data.toned[self.test_rows]]
        scores = model.label_scores(self.pictures(rows), self.unseen)
        found = scores.topk(10, 1).indices
        value = recall_at_k(found, self.labels[rows], np.arange(len(self.unseen)), ks=(10,))[10]
        return Score(value, 10 / len(self.unseen))
