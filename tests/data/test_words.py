"""Vocabularies."""

import pytest

from xmkern.data.words import BEGIN, END, PAD, UNKNOWN, Vocabulary, split_words


def test_words_in_english_and_characters_in_chinese() -> None:
    assert split_words("Red apple (new)") == ["red", "apple", "(", "new", ")"]
    assert split_words("红苹果") == ["红", "苹", "果"]


def test_sentences_go_there_and_back() -> None:
    vocabulary = Vocabulary.of(["red apple", "green apple", "red pear"])
    encoded = vocabulary.encode(["green pear", "blue apple"], 6)
    assert encoded[:, 0].tolist() == [BEGIN, BEGIN]
    assert encoded[:, 3].tolist() == [END, END]
    assert (encoded[:, 4:] == PAD).all()
    assert encoded[1, 1] == UNKNOWN
    assert vocabulary.decode(encoded[0]) == "green pear"
    assert vocabulary.decode([*encoded[0][:2], len(vocabulary), END]) == "green"
    assert vocabulary.encode(["red apple green"], 2, ends=False).tolist() == [[6, 5]]  # the commonest come first


def test_the_rarest_words_are_left_out_and_no_room_is_refused() -> None:
    vocabulary = Vocabulary.of(["a a a b b c"], most=7)
    assert vocabulary.words == ("a", "b")
    assert len(vocabulary) == 7
    with pytest.raises(ValueError, match="length"):
        vocabulary.encode(["a"], 2)


def test_marks_and_joiners_go_on_with_a_word() -> None:
    assert split_words("cafe\u0301 CAFÉ") == ["café", "café"]
    assert split_words("हिन्दी, علم عُمان") == ["हिन्दी", ",", "علم", "عُمان"]
    assert split_words("می\u200cخواهم") == ["می\u200cخواهم"]
    assert split_words("İstanbul") == ["i\u0307stanbul"]
