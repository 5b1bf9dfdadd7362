"""CIDEr of what can be worked out by hand."""

import math

import pytest

from xmkern.metrics import Cider, cider

LONG = "a b c d e"


def test_the_reference_itself_is_worth_ten_and_what_shares_nothing_nothing() -> None:
    assert cider([LONG, "x y z u"], [[LONG], ["x y z u"]]) == pytest.approx(10)
    assert cider(["x y z u", LONG], [[LONG], ["x y z u"]]) == 0
    assert cider(["", ""], [[LONG], ["x y z u"]]) == 0


def test_words_that_all_pictures_share_are_worth_nothing() -> None:
    # "the" is in every reference: its weight is log 1. What remains of the unigrams is the same.
    scores = Cider([["the cat"], ["the dog"]]).scores(["the cat", "the"])
    # Unigrams and bigrams of the first are right, longer n-grams there are none: half of 10.
    assert scores == pytest.approx([5, 0])


def test_a_sentence_half_right_by_hand() -> None:
    # Words a, b and c each in one reference of two: weight log 2 each. Unigrams: a common, lengths sqrt 2 both: 1/2.
    # No bigram in common. Both have two words: no penalty. (1/2) / 4 * 10.
    assert Cider([["a b"], ["c"]]).scores(["a x", "c"])[0] == pytest.approx(1.25)


def test_repeating_a_word_is_punished_by_the_minimum_and_by_the_length() -> None:
    references = [["a b"], ["c"]]
    # a a a a: min(4, 1) . 1 = 1 of norms 4 and sqrt 2; two words too many. Without: the cosine alone.
    expected = 10 / 4 * math.exp(-(2**2) / (2 * 6**2)) / (4 * math.sqrt(2))
    assert Cider(references).scores(["a a a a", "c"])[0] == pytest.approx(expected)
    assert Cider(references, sigma=None).scores(["a a a a", "c"])[0] == pytest.approx(10 / 4 / math.sqrt(2))


def test_several_references_are_averaged() -> None:
    references = [[LONG, "x y z u"], ["q"]]
    assert Cider(references).scores([LONG, "q"])[0] == pytest.approx(5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="references"):
        Cider(["a sentence"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="references"):
        Cider([[]])
    with pytest.raises(ValueError, match="captions must be 1"):
        Cider([["a"]]).scores([])
