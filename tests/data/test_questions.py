"""Questions about the pictures: what is asked, what is right, and that nothing of a test is learnt from."""

import re

import numpy as np
import pytest

from xmkern.data import emoji, questions
from xmkern.data.emoji import EmojiSet


@pytest.fixture(scope="module")
def data() -> EmojiSet:
    return emoji.load(16, ("en", "zh"), progress=False)


@pytest.fixture(scope="module")
def asked(data: EmojiSet) -> questions.Questions:
    return questions.ask(data)


def _of_kind(asked: questions.Questions, kind: str) -> questions.Questions:
    return asked.take(asked.kinds == questions.KINDS.index(kind))


def _answers(asked: questions.Questions) -> list[str]:
    return [asked.answer_names[answer] for answer in asked.answers]


def test_every_picture_is_asked_for_its_group(data: EmojiSet, asked: questions.Questions) -> None:
    group = _of_kind(asked, "group")
    assert group.rows.tolist() == list(range(len(data)))
    assert _answers(group) == [data.group_names[g] for g in data.groups]


def test_tones_are_those_of_the_names(data: EmojiSet, asked: questions.Questions) -> None:
    tone = _of_kind(asked, "tone")
    names = [data.names["en"][row] for row in tone.rows]
    assert all(
        name.count("skin tone") == (answer != "none") for name, answer in zip(names, _answers(tone), strict=True)
    )
    assert all(
        re.search(rf"(?<![\w-]){answer} skin tone", name)
        for name, answer in zip(names, _answers(tone), strict=True)
        if answer != "none"
    )
    assert set(_answers(tone)) == {"none", "light", "medium-light", "medium", "medium-dark", "dark"}


def test_persons_are_named_once(data: EmojiSet, asked: questions.Questions) -> None:
    who = _of_kind(asked, "who")
    for row, answer in zip(who.rows, _answers(who), strict=True):
        words = data.names["en"][row].lower().split()
        assert answer in words
        assert not {"man", "woman", "person", "men", "women", "people"} & (set(words) - {answer})


def test_what_is_asked_where_others_of_the_concept_are_seen(data: EmojiSet, asked: questions.Questions) -> None:
    what = _of_kind(asked, "what")
    assert _answers(what) == [data.root_names[root] for root in data.roots[what.rows]]
    for root in np.unique(data.roots[what.rows]):
        assert len(np.unique(data.pictures[data.roots == root])) >= questions.VARIANTS


def test_answers_stand_with_their_kind(asked: questions.Questions) -> None:
    assert (asked.answer_kinds[asked.answers] == asked.kinds).all()
    assert (np.diff(asked.answer_kinds) >= 0).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_split_learns_from_no_picture_of_the_test(data: EmojiSet, asked: questions.Questions, seed: int) -> None:
    train, test = questions.split(data, asked, seed)
    assert not np.isin(data.pictures[test.rows], data.pictures[train.rows]).any()
    known = _of_kind(test, "what")
    assert len(known) > 200
    assert np.isin(known.answers, train.answers).all(), "a concept whose name was never learnt"
    others = test.take(test.kinds != questions.KINDS.index("what"))
    assert not np.isin(data.roots[others.rows], data.roots[train.rows]).any()


def test_split_is_of_the_seed(data: EmojiSet, asked: questions.Questions) -> None:
    first, again, other = (questions.split(data, asked, seed)[1].rows for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_english_names_are_needed(data: EmojiSet) -> None:
    chinese = emoji.load(16, ("zh",), progress=False)
    with pytest.raises(ValueError, match="data must have English names"):
        questions.ask(chinese)
