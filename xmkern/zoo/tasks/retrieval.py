"""Find a picture by its name, and a name by its picture."""

from typing import Any

import numpy as np
import torch

from xmkern.metrics import recall_at_k
from xmkern.zoo.tasks.base import Score, Task


class Retrieval(Task):
    """Recall among the first ten, mean of both directions, over the pictures of unseen concepts (no skin tones).

    The model has ``similarity(pictures [B, 3, H, W], words [C, T]) -> [B, C]``.
    """

    metric = "recall@10"
    baseline = "chance"

    @torch.inference_mode()
    def evaluate(self, model: Any) -> Score:
        rows = self.unseen
        scores = model.similarity(self.pictures(rows), self.words[rows])
        best = [direction.topk(10, 1).indices for direction in (scores, scores.T)]
        value = np.mean([recall_at_k(found, rows, rows, ks=(10,))[10] for found in best])
        return Score(float(value), 10 / len(rows))
