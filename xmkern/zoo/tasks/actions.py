"""Say what happens in a clip."""

from typing import Any

import torch

from xmkern.data.actions import ACTIONS, compose
from xmkern.data.words import MASK, Vocabulary
from xmkern.models.parts.visual_words import VisualWords, stretch_features
from xmkern.zoo.tasks.base import Batch, Score, Task

FRAMES, SPAN = 7, 4  # of a clip, and of the stretch that a visual word stands for


class Actions(Task):
    """Accuracy of the two words that say what a picture never seen does, in "now it moves left".

    A batch has ``codes`` int64 [B, F], visual words of the clip, and ``words``, the sentence. The model has
    ``fill(codes [B, F], words [B, T]) -> logits [B, T, V]``, asked for the words that are MASK.
    """

    metric = "accuracy"
    baseline = "chance"

    def __init__(self, seed: int = 0, *, branches: int = 12, levels: int = 2, **task: Any) -> None:
        super().__init__(seed, **task)
        sentences = [f"now it {action}" for action in ACTIONS]
        self.vocabulary = Vocabulary.of(sentences)
        self.sentences = torch.from_numpy(self.vocabulary.encode(sentences, 6))
        generator = torch.Generator().manual_seed(seed)
        features = self._features(self.draw(400, generator), self._draw_actions(400, generator), generator)
        self.visual_words = VisualWords(features.flatten(0, 1), branches, levels, seed)

    @staticmethod
    def _draw_actions(size: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randint(len(ACTIONS), (size,), generator=generator)

    def _features(self, rows: torch.Tensor, actions: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return stretch_features(compose(self.pictures(rows), actions, frames=FRAMES, generator=generator), SPAN)

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        rows, actions = self.draw(size, generator), self._draw_actions(size, generator)
        codes = self.visual_words(self._features(rows, actions, generator))
        return {"codes": codes, "words": self.sentences[actions], "ids": self.ids[rows]}

    @torch.inference_mode()
    def evaluate(self, model: Any) -> Score:
        rows = torch.from_numpy(self.test_rows[~self.data.toned[self.test_rows]])
        generator = torch.Generator().manual_seed(0)
        actions = self._draw_actions(len(rows), generator)
        codes = self.visual_words(self._features(rows, actions, generator))
        words = self.sentences[actions]
        asked = torch.tensor([3, 4]).expand(len(words), -1)  # behind BEGIN, "now" and "it"
        found = model.fill(codes, words.scatter(1, asked, MASK)).argmax(2)
        right = (found == words).gather(1, asked).all(1)
        return Score(right.double().mean().item(), 1 / len(ACTIONS))
