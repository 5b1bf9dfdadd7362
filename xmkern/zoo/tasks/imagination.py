"""Picture what a name says, by a model that sees either or both."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from xmkern.zoo.tasks.base import Score, Task
from xmkern.zoo.tasks.pictures import grid


class Imagination(Task):
    """The share of the variance of unseen concepts' thumbnails (no skin tones) that their names alone explain.

    1 - |x - imagined x|^2 / |x - mean picture|^2, summed over pixels and pictures. The model has
    ``imagine(words [B, T]) -> [B, 3, side, side]``.
    """

    metric = "explained variance"
    baseline = "mean picture"

    def __init__(self, seed: int = 0, *, size: int = 32, **task: Any) -> None:
        super().__init__(seed, size=size, **task)

    @torch.inference_mode()
    def evaluate(self, model: Any) -> Score:
        imagined = model.imagine(self.words[self.unseen])
        train = self.train_rows[~self.data.toned[self.train_rows]]
        truth, mean = (F.adaptive_avg_pool2d(self.pictures(r), imagined.shape[-1]) for r in (self.unseen, train))
        error = (truth - imagined).square().sum() / (truth - mean.mean(0)).square().sum()
        return Score(1 - error.item(), 0.0)

    @torch.inference_mode()
    def picture(self, model: Any) -> np.ndarray:
        """Sixteen real pictures, each before what its name calls up; the first eight were learnt."""
        learnt = self.train_rows[~self.data.toned[self.train_rows]]
        rng = np.random.default_rng(0)
        rows = np.concatenate([rng.permutation(part)[:8] for part in (learnt, self.unseen)])
        imagined = model.imagine(self.words[rows])
        truth = F.adaptive_avg_pool2d(self.pictures(rows), imagined.shape[-1])
        return grid(torch.stack([truth, imagined], 1).flatten(0, 1), 8, 4)
