"""Say what happens in a clip."""

from typing import Any

import torch

from xmkern.data.actions import ACTIONS, compose
from xmkern.data.words import MASK, Vocabulary
from xmkern.models.parts.visual_words import VisualWords, stretch_features
from xmkern.zoo.tasks.base import Batch, Score, Task

FRAMES = 7


class Actions(Task):
    """Accuracy of the two words that say what a picture never seen does, in a sentence that has its name.

    A batch has ``codes`` int64 [B, F], visual words of the clip; its ``words`` are the name and the action. The model
    has ``fill(codes [B, F], words [B, T]) -> logits [B, T, V]``, asked for the words that are MASK.
    """

    metric = "accuracy"
    baseline = "chance"

    def __init__(self, seed: int = 0, *, branches: int = 12, levels: int = 2, **task: Any) -> None:
        super().__init__(seed, **task)
        names = self.data.names["en"]
        self._length = self.words.shape[1]
        self._most = self._length - 4
        train = [f"{names[row]} {action}" for row in self.train_rows for action in ACTIONS]
        self.vocabulary = Vocabulary.of(train, 2048)
        generator = torch.Generator().manual_seed(seed)
        clips = self._clips(self.draw(400, generator), self._draw_actions(400, generator), generator)
        features = stretch_features(clips)
        self.visual_words = VisualWords(features.flatten(0, 1), branches, levels, seed)

    @staticmethod
    def _draw_actions(size: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randint(len(ACTIONS), (size,), generator=generator)

    def _clips(self, rows: torch.Tensor, actions: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return compose(self.pictures(rows), actions, frames=FRAMES, generator=generator)

    def _sentences(self, rows: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """int64 [B, T]; a long name is cut so that the action has room."""
        names = self.data.names["en"]
        sentences = [
            f"{' '.join(names[row].split()[: self._most])} {ACTIONS[action]}"
            for row, action in zip(rows.tolist(), actions.tolist(), strict=True)
        ]
        return torch.from_numpy(self.vocabulary.encode(sentences, self._length))

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        rows, actions = self.draw(size, generator), self._draw_actions(size, generator)
        codes = self.visual_words(stretch_features(self._clips(rows, actions, generator)))
        return {"codes": codes, "words": self._sentences(rows, actions), "ids": self.ids[rows]}

    @torch.inference_mode()
    def evaluate(self, model: Any) -> Score:
        rows = torch.from_numpy(self.test_rows[~self.data.toned[self.test_rows]])
        generator = torch.Generator().manual_seed(0)
        actions = self._draw_actions(len(rows), generator)
        codes = self.visual_words(stretch_features(self._clips(rows, actions, generator)))
        words = self._sentences(rows, actions)
        # The action's two words stand before the end.
        end = (words != 0).sum(1) - 1
        asked = torch.stack([end - 2, end - 1], 1)
        found = model.fill(codes, words.scatter(1, asked, MASK)).argmax(2)
        right = (found == words).gather(1, asked).all(1)
        return Score(right.double().mean().item(), 1 / len(ACTIONS))
