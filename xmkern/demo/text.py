"""Names to tokens: words, or single characters where a script has no spaces, as bags of hashed character n-grams."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BUCKETS = 8192
MAX_WORDS = 12
MAX_GRAMS = 24

_IDEOGRAPH = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\W{_IDEOGRAPH}]+|[^\w\s]")


@dataclass(frozen=True)
class Tokens:
    """Names as numbers.

    Attributes:
        words: rows of ``grams``, int64 ``[B, L]``; 0 is padding.
        grams: buckets of each word's n-grams, int64 ``[V, G]``; 0 is padding, and row 0 is all padding.
    """

    words: Tensor
    grams: Tensor

    def __getitem__(self, rows: Tensor) -> Tokens:
        return Tokens(self.words[rows], self.grams)


def split(name: str) -> list[str]:
    """``"red apple" -> ["red", "apple"]``, ``"红苹果" -> ["红", "苹", "果"]``."""
    return _WORD.findall(name.lower())


def buckets(word: str) -> list[int]:
    """The word itself and its n-grams of 3 to 5 characters, each hashed to 1..BUCKETS-1.

    The pieces let a word that was never seen ("raincoat") borrow from words that were ("rain", "coat").
    """
    marked = f"<{word}>"
    pieces = [marked] + [marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1) if n < len(marked)]
    return [1 + zlib.crc32(piece.encode()) % (BUCKETS - 1) for piece in pieces[:MAX_GRAMS]]


def tokenize(names: Sequence[str]) -> Tokens:
    """Tokens of ``B`` names; a name with no word in it is a single unknown word."""
    vocabulary: dict[str, int] = {}
    rows = []
    for name in names:
        found = split(name)[:MAX_WORDS] or ["?"]
        rows.append([vocabulary.setdefault(word, len(vocabulary) + 1) for word in found])
    words = torch.zeros(len(rows), MAX_WORDS, dtype=torch.int64)
    for row, numbers in enumerate(rows):
        words[row, : len(numbers)] = torch.tensor(numbers)
    grams = torch.zeros(len(vocabulary) + 1, MAX_GRAMS, dtype=torch.int64)
    for word, number in vocabulary.items():
        pieces = buckets(word)
        grams[number, : len(pieces)] = torch.tensor(pieces)
    return Tokens(words, grams)
