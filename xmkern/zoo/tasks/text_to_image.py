"""Draw what a name says."""

from typing import Any

import numpy as np
import torch

from xmkern.data.words import SPECIAL, Vocabulary
from xmkern.metrics import r_precision
from xmkern.zoo.tasks.base import Score, Task
from xmkern.zoo.tasks.judge import Judge
from xmkern.zoo.tasks.pictures import grid


class TextToImage(Task):
    """R-precision of pictures drawn by the groups and names of unseen concepts (no skin tones).

    Does a judge find the name that a picture was drawn by among ten? The others are of other unseen concepts. The judge
    (:class:`xmkern.zoo.tasks.judge.Judge`) was fitted to all pictures, those of unseen concepts too; of the real
    pictures of those it names 99 in 100, of the pictures whose names in the training share most words 6 in 10. What is
    drawn without words is at chance. The model has
    ``draw(words [N, T], seed) -> [N, 3, H, W]``.
    """

    metric = "R-precision"
    baseline = "chance (no words)"
    moved = False  # a name says nothing of how its picture is turned
    candidates = 10
    repeats = 2  # samples of each name

    def __init__(self, seed: int = 0, *, size: int = 32, **task: Any) -> None:
        super().__init__(seed, size=size, grouped=True, **task)
        self.plain = np.flatnonzero(~self.data.toned)
        rng = np.random.default_rng(seed)
        roots = self.data.roots[self.unseen]
        others = [rng.permutation(np.flatnonzero(roots != root))[: self.candidates - 1] for root in roots]
        # Places in ``unseen``, the right one first.
        self._candidates = np.concatenate([np.arange(len(roots))[:, None], np.stack(others)], 1)

    def judge(self, pictures: torch.Tensor) -> np.ndarray:
        """Drawn by the names of ``unseen``, in order -> scores of the candidates, the right one first, [N, 10]"""
        vocabulary = Vocabulary.of(self.names[row] for row in self.plain)
        numbers = torch.from_numpy(vocabulary.encode([self.names[row] for row in self.plain], 16, ends=False))
        words = torch.zeros(len(self.plain), len(vocabulary)).scatter_(1, numbers, 1.0)[:, SPECIAL:]
        judge = Judge(self.pictures(self.plain), words)
        scores = judge.scores(pictures, words[np.searchsorted(self.plain, self.unseen)])
        return scores.gather(1, torch.from_numpy(self._candidates)).numpy()

    @torch.no_grad()
    def evaluate(self, model: Any) -> Score:
        words = self.words[self.unseen]
        values = []
        for repeat in range(self.repeats):
            scores = self.judge(model.draw(words, 1 + repeat))
            # The right one stands last, so that equal scores count against it.
            relevant = np.broadcast_to(np.arange(self.candidates) == self.candidates - 1, scores.shape)
            values.append(r_precision(scores[:, ::-1], relevant))
        return Score(float(np.mean(values)), 1 / self.candidates)

    @torch.no_grad()
    def picture(self, model: Any) -> np.ndarray:
        """A real picture and seven drawn by its name, of four names that were learnt and four that were not."""
        learnt = self.train_rows[~self.data.toned[self.train_rows]]
        rng = np.random.default_rng(0)
        rows = np.concatenate([rng.permutation(part)[:4] for part in (learnt, self.unseen)])
        drawn = model.draw(self.words[rows].repeat_interleave(7, 0), 2).unflatten(0, (8, 7))
        return grid(torch.cat([self.pictures(rows)[:, None], drawn], 1).flatten(0, 1), 8)
