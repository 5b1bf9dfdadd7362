"""Tell by which of two names a picture is likelier."""

from typing import Any

import numpy as np
import torch

from xmkern.zoo.tasks.base import Batch, Score, Task


class Likelihood(Task):
    """How often a picture of an unseen concept is likelier after its own name than after another's.

    At most four pictures of each concept, each against the names of five others of other concepts. The model has
    ``log_likelihood(pictures [B, 3, H, W], words [B, T]) -> [B]``.
    """

    metric = "own name likelier"
    baseline = "chance"
    others = 5

    def __init__(self, seed: int = 0, *, size: int = 32, **task: Any) -> None:
        super().__init__(seed, size=size, **task)
        rng, roots = np.random.default_rng(seed), self.data.roots
        rows = rng.permutation(self.test_rows[np.unique(self.data.pictures[self.test_rows], return_index=True)[1]])
        self.shown = np.concatenate([rows[roots[rows] == root][:4] for root in np.unique(roots[rows])])
        self.rivals = np.stack([rng.choice(self.shown[roots[self.shown] != roots[i]], self.others) for i in self.shown])

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        rows = self.draw(size, generator)
        return {"pictures": self.pictures(rows), "words": self.words[rows], "ids": self.ids[rows]}

    @torch.inference_mode()
    def evaluate(self, model: Any) -> Score:
        right = []
        for part in np.array_split(np.arange(len(self.shown)), -(-len(self.shown) // 64)):
            pictures, rows = self.pictures(self.shown[part]), self.shown[part]
            own = model.log_likelihood(pictures, self.words[rows])
            for rivals in self.rivals[part].T:
                right.append(own > model.log_likelihood(pictures, self.words[rivals]))
        return Score(torch.cat(right).float().mean().item(), 0.5)
