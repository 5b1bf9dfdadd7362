"""Know what is likely."""

from typing import Any

import numpy as np
import torch

from xmkern.zoo.tasks.base import Score, Task
from xmkern.zoo.tasks.pictures import grid


class Density(Task):
    """How often two unseen pictures (no skin tones) have less free energy than after they swapped their right halves.

    Where pixels are taken to be independent it is a toss-up, for before and after there are the same pixels. The model
    has ``free_energy(pictures [B, 3, H, W]) -> [B]`` and ``draw(count, seed) -> [count, 3, H, W]``.
    """

    metric = "accuracy"
    baseline = "independent pixels"
    moved = False

    def __init__(self, seed: int = 0, *, size: int = 32, **task: Any) -> None:
        super().__init__(seed, size=size, **task)

    @torch.inference_mode()
    def evaluate(self, model: Any) -> Score:
        pictures = self.pictures(self.unseen)
        half = pictures.shape[-1] // 2
        values = []
        for shift in (7, 23, 71):
            apart = pictures, pictures.roll(shift, 0)
            joined = (torch.cat([a[..., :half], b[..., half:]], -1) for a, b in (apart, apart[::-1]))
            before, after = (sum(model.free_energy(x) for x in pair) for pair in (apart, joined))
            values.append(((before < after).double() + 0.5 * (before == after)).mean().item())
        return Score(float(np.mean(values)), 0.5)

    @torch.no_grad()
    def picture(self, model: Any) -> np.ndarray:
        """Sixty-four drawn."""
        return grid(model.draw(64, 2), 8)
