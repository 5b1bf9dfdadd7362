"""Answer questions about a picture."""

from typing import Any

import numpy as np
import torch

from xmkern.data import questions
from xmkern.data.questions import KINDS, WORDINGS
from xmkern.data.words import Vocabulary
from xmkern.zoo.tasks.base import Batch, Score, Task


class QuestionAnswering(Task):
    """Accuracy of answers, mean over the kinds of questions, about pictures never seen.

    A batch has besides the words, here of the question, ``answers`` int64 [B]. The model has
    ``answer(pictures [B, 3, H, W], words [B, T]) -> logits [B, A]``, with A at least ``answers``.
    """

    metric = "accuracy"
    baseline = "question alone"

    def __init__(self, seed: int = 0, **task: Any) -> None:
        super().__init__(seed, **task)
        self.asked = questions.ask(self.data)
        self.learnt, self.test = questions.split(self.data, self.asked, seed, test_share=0.15)
        self.vocabulary = Vocabulary.of(sentence for ways in WORDINGS.values() for sentence in ways)
        length = self.words.shape[1]
        self.sentences = torch.from_numpy(
            np.stack([self.vocabulary.encode(ways, length) for ways in WORDINGS.values()])
        )
        # Every kind is asked equally often.
        self._chance = torch.from_numpy(1 / np.bincount(self.learnt.kinds)[self.learnt.kinds])

    @property
    def answers(self) -> int:
        return len(self.asked.answer_names)

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        which = torch.multinomial(self._chance, size, generator=generator)
        kinds, rows = (torch.from_numpy(x)[which] for x in (self.learnt.kinds, self.learnt.rows))
        wording = torch.randint(self.sentences.shape[1], kinds.shape, generator=generator)
        return {
            "pictures": self.pictures(rows, generator),
            "words": self.sentences[kinds, wording],
            "answers": torch.from_numpy(self.learnt.answers)[which],
            "ids": self.ids[rows],
        }

    @torch.inference_mode()
    def evaluate(self, model: Any) -> Score:
        test = self.test
        words = self.sentences[torch.from_numpy(test.kinds), 0]
        found = [
            model.answer(self.pictures(test.rows[part]), words[part]).argmax(1)
            for part in np.array_split(np.arange(len(test)), -(-len(test) // 256))
        ]
        right = torch.cat(found).numpy() == test.answers
        values, alone = [], []
        for kind in range(len(KINDS)):
            commonest = np.bincount(self.learnt.answers[self.learnt.kinds == kind]).argmax()
            values.append(right[test.kinds == kind].mean())
            alone.append((test.answers[test.kinds == kind] == commonest).mean())
        return Score(float(np.mean(values)), float(np.mean(alone)))
