"""Sentences as numbers: a vocabulary of whole words with the few special ones that models need.

>>> vocabulary = Vocabulary.of(["red apple", "green apple"])
>>> vocabulary.encode(["green apple"], length=5)           # [[1, 7, 6, 2, 0]]: begin, green, apple, end, padding
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

__all__ = ["BEGIN", "END", "MASK", "PAD", "SPECIAL", "UNKNOWN", "Vocabulary", "split_words"]

PAD, BEGIN, END, MASK, UNKNOWN = range(5)
SPECIAL = 5  # the first number that is a word

_IDEOGRAPH = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_JOINERS = "\u200c\u200d"  # inside Persian and Indic words


@cache
def _pattern(marks: str) -> re.Pattern[str]:
    letter = rf"[^\W{_IDEOGRAPH}]"
    return re.compile(rf"[{_IDEOGRAPH}]|{letter}(?:{letter}{f'|[{marks}]' if marks else ''})*|[^\w\s]")


def split_words(sentence: str) -> list[str]:
    """``"Red apple!" -> ["red", "apple", "!"]``; a script without spaces is taken by its characters.

    Words are composed (NFC), and vowel signs, accents and joiners go on with the word that they follow.
    """
    sentence = unicodedata.normalize("NFC", sentence.lower())
    # re knows no class of marks: those of the sentence make one.
    marks = {c for c in sentence if c in _JOINERS or unicodedata.category(c)[0] == "M"}
    return _pattern("".join(sorted(marks))).findall(sentence)


@dataclass(frozen=True)
class Vocabulary:
    """Words by number, the commonest first; the numbers below ``SPECIAL`` stand for no word."""

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_numbers", {word: i for i, word in enumerate(self.words, SPECIAL)})

    def __len__(self) -> int:
        """How many numbers there are, the special ones included."""
        return SPECIAL + len(self.words)

    @classmethod
    def of(cls, sentences: Iterable[str], most: int | None = None) -> Vocabulary:
        """The words of some sentences; where ``most`` numbers do not suffice, the rarest are left out."""
        counts = Counter(word for sentence in sentences for word in split_words(sentence))
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(tuple(ordered if most is None else ordered[: max(0, most - SPECIAL)]))

    def encode(self, sentences: Sequence[str], length: int, *, ends: bool = True) -> np.ndarray:
        """int64 ``[B, length]``, cut or padded; between BEGIN and END if ``ends``."""
        numbers: dict[str, int] = self._numbers  # type: ignore[attr-defined]
        room = length - 2 * ends
        if room < 1:
            raise ValueError(f"length must leave room for a word, not {length}")
        out = np.full((len(sentences), length), PAD, np.int64)
        for row, sentence in zip(out, sentences, strict=True):
            found = [numbers.get(word, UNKNOWN) for word in split_words(sentence)[:room]]
            found = [BEGIN, *found, END] if ends else found
            row[: len(found)] = found
        return out

    def decode(self, numbers: Iterable[int]) -> str:
        """The words up to END, parted by spaces; special numbers are left out, and those behind the last word, which a
        model may write whose vocabulary has room to spare."""
        words = []
        for number in numbers:
            if number == END:
                break
            if SPECIAL <= number < SPECIAL + len(self.words):
                words.append(self.words[number - SPECIAL])
        return " ".join(words)
