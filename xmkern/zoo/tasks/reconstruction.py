"""Rebuild pictures."""

from typing import Any

import torch

from xmkern.zoo.tasks.base import Batch, Score, Task


class Reconstruction(Task):
    """The share of the variance of unseen concepts' pixels (no skin tones) that a rebuilt picture explains.

    1 - |x - rebuilt x|^2 / |x - mean picture|^2, summed over pixels and pictures. The model has
    ``reconstruct(pictures [B, 3, H, W]) -> [B, 3, H, W]``.
    """

    metric = "explained variance"
    baseline = "mean picture"

    def __init__(self, seed: int = 0, *, size: int = 32, **task: Any) -> None:
        super().__init__(seed, size=size, **task)

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        return {"pictures": self.pictures(self.draw(size, generator))}

    @torch.inference_mode()
    def evaluate(self, model: Any) -> Score:
        pictures = self.pictures(self.unseen)
        mean = self.pictures(self.train_rows[~self.data.toned[self.train_rows]]).mean(0)
        rebuilt = torch.cat([model.reconstruct(part) for part in pictures.split(64)])
        error = (pictures - rebuilt).square().sum() / (pictures - mean).square().sum()
        return Score(1 - error.item(), 0.0)
