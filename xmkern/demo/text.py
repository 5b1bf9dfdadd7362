"""Names to tokens: words, or single characters where a script has no spaces, as bags of hashed character n-grams."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xmkern.data.words import split_words

BUCKETS = 8192
MAX_WORDS = 12
MAX_GRAMS = 24


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
        found = split_words(name)[:MAX_WORDS] or ["?"]
        rows.append([vocabulary.setdefault(word, len(vocabulary) + 1) for word in found])
    words = torch.zeros(len(rows), MAX_WORDS, dtype=torch.int64)
    for row, numbers in enumerate(rows):
        words[row, : len(numbers)] = torch.tensor(numbers)
    grams = torch.zeros(len(vocabulary) + 1, MAX_GRAMS, dtype=torch.int64)
    for word, number in vocabulary.items():
        pieces = buckets(word)
        grams[number, : len(pieces)] = torch.tensor(pieces)
    return Tokens(words, grams)
