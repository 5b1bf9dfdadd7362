"""What a caption is worth beside the sentences that people wrote."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

__all__ = ["Cider", "cider"]

Grams = list[Counter]  # of one word, of two, ...


class Cider:
    r"""CIDEr-D of captions, against the references of some pictures (Vedantam et al., CIDEr, CVPR 2015, section 7).

    With :math:`g_n(s)` the counts of a sentence's n-grams, each times the logarithm of (pictures / pictures with a
    reference that has it), a caption c of a picture with references :math:`s_j` is worth

    .. math:: \frac{10}{4 m} \sum_{n=1}^4 \sum_{j=1}^m e^{-(|c| - |s_j|)^2 / 2 \sigma^2}
        \frac{\min(g_n(c), g_n(s_j)) \cdot g_n(s_j)}{\|g_n(c)\| \|g_n(s_j)\|}.

    Sentences shorter than four words have no n-grams of the longest kinds, so even a perfect caption of them is worth
    less than 10.

    Args:
        references: one or more sentences for each picture, words parted by spaces.
        longest: 4, up to which n.
        sigma: how strictly the lengths are to be alike; None for CIDEr, which has neither that nor the minimum.
    """

    def __init__(self, references: Sequence[Sequence[str]], *, longest: int = 4, sigma: float | None = 6.0) -> None:
        if not references or not all(references) or any(isinstance(each, str) for each in references):
            raise ValueError("references must be one or more sentences for each of one or more pictures")
        self.longest, self.sigma = longest, sigma
        grams = [[self._grams(sentence) for sentence in each] for each in references]
        pictures: Counter = Counter()
        for each in grams:
            pictures.update({gram for sentence in each for counts in sentence for gram in counts})
        self._rarity = {gram: math.log(len(references) / count) for gram, count in pictures.items()}
        self._unseen = math.log(len(references))
        self._references = [[(self._weighed(s), sum(s[0].values())) for s in each] for each in grams]

    def scores(self, captions: Sequence[str]) -> list[float]:
        """Of one caption for each picture.

        Raises:
            ValueError: there are more or fewer captions than pictures.
        """
        if len(captions) != len(self._references):
            raise ValueError(f"captions must be {len(self._references)}, one for each picture, not {len(captions)}")
        seen: dict[str, tuple[list[tuple[dict, float]], int]] = {}
        for caption in set(captions):
            grams = self._grams(caption)
            seen[caption] = self._weighed(grams), sum(grams[0].values())
        return [
            sum(self._similarity(*seen[caption], *reference) for reference in references) * 10 / len(references)
            for caption, references in zip(captions, self._references, strict=True)
        ]

    def _grams(self, sentence: str) -> Grams:
        words = sentence.split()
        return [Counter(zip(*(words[i:] for i in range(n)), strict=False)) for n in range(1, self.longest + 1)]

    def _weighed(self, grams: Grams) -> list[tuple[dict, float]]:
        """For each n the weights of the n-grams, and their Euclidean length."""
        out = []
        for counts in grams:
            weights = {gram: count * self._rarity.get(gram, self._unseen) for gram, count in counts.items()}
            out.append((weights, math.hypot(*weights.values())))
        return out

    def _similarity(self, caption: list, length: int, reference: list, reference_length: int) -> float:
        total = 0.0
        for (own, own_norm), (other, other_norm) in zip(caption, reference, strict=True):
            if own_norm and other_norm and (common := own.keys() & other.keys()):
                most = own if self.sigma is None else {gram: min(own[gram], other[gram]) for gram in common}
                total += sum(most[gram] * other[gram] for gram in common) / (own_norm * other_norm)
        if self.sigma is not None:
            total *= math.exp(-((length - reference_length) ** 2) / (2 * self.sigma**2))
        return total / self.longest


def cider(captions: Sequence[str], references: Sequence[Sequence[str]], *, sigma: float | None = 6.0) -> float:
    """The mean of :class:`Cider` over the pictures: 0 to 10.

    Args:
        captions: one sentence a picture, words parted by spaces.
        references: one or more a picture.
        sigma: of :class:`Cider`.
    """
    scores = Cider(references, sigma=sigma).scores(captions)
    return sum(scores) / len(scores)
