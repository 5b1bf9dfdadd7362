"""Draw pictures."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmkern.metrics import frechet_distance, picture_statistics
from xmkern.zoo.tasks.base import Score, Task


class Pictures(Task):
    """How near colours and edges of drawn pictures are to those of pictures never seen (no skin tones).

    The metric is minus the Fréchet distance of :func:`xmkern.metrics.picture_statistics`, each scaled by its deviation
    over the unseen pictures, for each number. As many pictures of the training have -0.02, a normal distribution that
    is fitted to their pixels has -0.48, their mean -2.8. The baseline is the better of that mean and of the model
    before its training. The model has ``draw(count, seed) -> [count, 3, H, W]``.
    """

    metric = "-Fréchet distance"
    baseline = "untrained, or mean picture"
    moved = False  # which would change their statistics
    drawn = 256

    def __init__(self, seed: int = 0, *, size: int = 32, **task: Any) -> None:
        super().__init__(seed, size=size, **task)
        statistics = picture_statistics(self.pictures(self.unseen)).numpy()
        self._scale = statistics.std(0) + 1e-6
        self._statistics = statistics / self._scale

    def distance(self, pictures: Tensor) -> float:
        """[N, 3, H, W] -> the Fréchet distance to the unseen, per number"""
        statistics = picture_statistics(pictures).numpy() / self._scale
        return frechet_distance(statistics, self._statistics) / self._statistics.shape[1]

    @torch.no_grad()
    def evaluate(self, model: Any) -> Score:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            untrained = type(model)(model.config).eval()
        mean = self.pictures(self.train_rows[~self.data.toned[self.train_rows]]).mean(0, keepdim=True)
        without = min(self.distance(untrained.draw(self.drawn, 1)), self.distance(mean.expand(2, -1, -1, -1)))
        return Score(-self.distance(model.draw(self.drawn, 1)), -without)

    @torch.no_grad()
    def picture(self, model: Any) -> np.ndarray:
        """Sixty-four drawn."""
        return grid(model.draw(64, 2), 8)


def grid(pictures: Tensor, columns: int, times: int = 2) -> np.ndarray:
    """[N, 3, H, W] in -1 to 1 -> uint8 [rows, columns, 3], row by row, each pixel so many times as wide."""
    pictures = torch.nn.functional.pad(pictures.clamp(-1, 1), (1, 1, 1, 1), value=1.0)
    rows = pictures.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return ((rows + 1) * 127.5).round().byte().repeat_interleave(times, 0).repeat_interleave(times, 1).numpy()
