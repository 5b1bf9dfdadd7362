"""Spell the English name after the German one."""

import itertools
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import torch

from xmkern.data.words import BEGIN, END, PAD, SPECIAL, UNKNOWN
from xmkern.zoo.tasks.base import Batch, Score, Task

ARROW = "→"


class Translation(Task):
    """Accuracy of the next letter of English names of unseen concepts (no skin tones), each after its German name.

    ``words`` are letters here: BEGIN, the German name, an arrow, the English name, END. The model has
    ``__call__(words [B, T]).logits [B, T, V]`` of what follows each letter. The baseline knows which letter most often
    follows the last two.
    """

    metric = "letter accuracy"
    baseline = "letters by threes"

    def __init__(self, seed: int = 0, *, length: int = 64, **task: Any) -> None:
        super().__init__(seed, languages=("de", "en"), **task)
        pairs = [f"{a}{ARROW}{b}".lower() for a, b in zip(*(self.data.names[i] for i in ("de", "en")), strict=True)]
        letters = sorted(set("".join(pairs[row] for row in self.train_rows)))
        number = {letter: i for i, letter in enumerate(letters, SPECIAL)}
        self.letters, self.arrow = letters, number[ARROW]
        self.words = torch.full((len(pairs), length), PAD)
        for row, pair in zip(self.words, pairs, strict=True):
            found = [BEGIN, *(number.get(letter, UNKNOWN) for letter in pair), END][:length]
            row[: len(found)] = torch.tensor(found)

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        return {"words": self.words[self.draw(size, generator)]}

    @torch.inference_mode()
    def evaluate(self, model: Any) -> Score:
        words = self.words[self.test_rows[~self.data.toned[self.test_rows]]]
        asked = ((words[:, :-1] == self.arrow).cumsum(1) > 0) & (words[:, 1:] != PAD)
        found = torch.cat([model(part).logits[:, :-1].argmax(-1) for part in words.split(64)])
        value = (found == words[:, 1:])[asked].float().mean()

        after: dict[tuple[int, ...], Counter] = defaultdict(Counter)
        for row in self.words[self.train_rows].tolist():
            for two, letter in zip(itertools.pairwise(row), row[2:], strict=False):
                after[two][letter] += 1
        commonest = {two: counts.most_common(1)[0][0] for two, counts in after.items()}
        rows, places = (x.numpy() for x in asked.nonzero(as_tuple=True))
        table = words.numpy()
        guessed = [commonest.get((table[r, p - 1], table[r, p])) for r, p in zip(rows, places, strict=True)]
        return Score(value.item(), float(np.mean(np.array(guessed) == table[rows, places + 1])))
