"""Name what a picture shows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from xmkern.data._packages import require
from xmkern.data.words import split_words
from xmkern.metrics import Cider
from xmkern.models.parts.generation import beam, begin
from xmkern.zoo.tasks.base import Score, Task


class Captions(Task):
    """CIDEr-D of captions of unseen concepts (no skin tones), found by a beam, against their groups and names.

    What is new has no word yet, so that much of it is in the group, and in how persons, faces and flags are told apart.

    The model has ``reader(pictures [B, 3, H, W])``, a :class:`xmkern.models.parts.generation.Reader` that has seen the
    pictures and stands before BEGIN. The baseline is the one name that, given to every picture, reaches most.
    Chinese names are captions as well: ``languages=("zh",)``, whose words are characters, and which have no group.
    """

    metric = "CIDEr-D"
    baseline = "best caption without looking"
    beams = 3

    def __init__(self, seed: int = 0, **task: Any) -> None:
        super().__init__(seed, grouped="languages" not in task, **task)
        self.sentences = [" ".join(split_words(name)) for name in self.names]
        self.shown = self.unseen

    def references(self) -> list[list[str]]:
        """Of each picture that is shown, all its names."""
        pictures = self.data.pictures
        return [sorted({self.sentences[row] for row in np.flatnonzero(pictures == pictures[i])}) for i in self.shown]

    def candidates(self) -> Sequence[str]:
        """What could be said of every picture without looking."""
        return sorted({self.sentences[row] for row in self.train_rows})

    def view(self, part: np.ndarray) -> torch.Tensor:
        """What the model sees of some of the pictures that are shown."""
        return self.pictures(self.shown[part])

    @torch.inference_mode()
    def captions(self, model: Any) -> list[str]:
        """Of each picture that is shown."""
        found = []
        for part in np.array_split(np.arange(len(self.shown)), -(-len(self.shown) // 64)):
            reader = model.reader(self.view(part))
            sentences = beam(reader, begin(len(part)), length=self.words.shape[1] - 1, beams=self.beams)
            found += [self.vocabulary.decode(sentence) for sentence in sentences.tolist()]
        return found

    def bleu(self, captions: Sequence[str]) -> float:
        """BLEU-4 of the captions as one corpus, 0 to 100, by sacrebleu."""
        require("sacrebleu", "zoo")
        import sacrebleu

        references = self.references()
        most = max(map(len, references))
        streams: Any = [[each[i] if i < len(each) else None for each in references] for i in range(most)]
        return sacrebleu.corpus_bleu(captions, streams, tokenize="none", force=True).score

    def evaluate(self, model: Any) -> Score:
        cider = Cider(self.references())
        value = np.mean(cider.scores(self.captions(model)))
        alone = max(np.mean(cider.scores([caption] * len(self.shown))) for caption in self.candidates())
        return Score(float(value), float(alone))
