"""Questions about the emoji pictures, with answers from their names and groups: visual question answering on real data.

>>> from xmkern.data import emoji, questions
>>> data = emoji.load(size=64, languages=("en",))
>>> asked = questions.ask(data)
>>> parts = questions.split(data, asked, seed=0)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from xmkern.data.emoji import EmojiSet

__all__ = ["WORDINGS", "Questions", "ask", "split"]

# What is asked, in words that mean the same.
WORDINGS: dict[str, tuple[str, ...]] = {
    "what": ("what is this ?", "what does the picture show ?", "name what you see ."),
    "group": ("which group does it belong to ?", "to what group does this belong ?", "which of the groups is it of ?"),
    "tone": ("which skin tone is it ?", "what skin tone does the picture have ?", "name the skin tone ."),
    "who": ("man , woman or person ?", "who is shown , man , woman or person ?", "is it a man , a woman or a person ?"),
}
KINDS = tuple(WORDINGS)
PEOPLE = "People & Body"
VARIANTS = 6  # pictures of one concept, from which on "what is this ?" can be asked of one that was never seen

_TONE = re.compile(r"\b(medium-light|medium-dark|light|medium|dark) skin tone\b")
_WHO = re.compile(r"\b(man|woman|person|men|women|people)\b")


@dataclass(frozen=True)
class Questions:
    """Every array is aligned on ``Q``, the questions.

    Attributes:
        rows: of the data, int64 ``[Q]``: which picture is asked about.
        kinds: index into ``KINDS``, int64 ``[Q]``: what is asked.
        answers: index into ``answer_names``, int64 ``[Q]``.
        answer_names: all answers of all kinds, sorted within a kind.
        answer_kinds: the kind that an answer belongs to, int64, aligned with ``answer_names``.
    """

    rows: np.ndarray
    kinds: np.ndarray
    answers: np.ndarray
    answer_names: tuple[str, ...]
    answer_kinds: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: np.ndarray) -> Questions:
        """Some of the questions, by number or by a bool array ``[Q]``."""
        return replace(self, rows=self.rows[which], kinds=self.kinds[which], answers=self.answers[which])


def ask(data: EmojiSet) -> Questions:
    """All questions that the metadata can answer; needs the English names.

    ``what``: the concept, of those with six pictures and more; ``group``: one of Unicode's nine; ``tone``: one of five
    skin tones, or none where others of the concept have one; ``who``: man, woman or person.
    """
    if "en" not in data.names:
        raise ValueError(f"data must have English names, not only {', '.join(data.names)}")
    names = [name.lower() for name in data.names["en"]]
    tones = [_TONE.findall(name) for name in names]
    pairs = np.unique(np.stack([data.roots, data.pictures]), axis=1)
    variants = np.bincount(pairs[0], minlength=len(data.root_names))[data.roots]
    has_tones = np.bincount(data.roots, data.toned, minlength=len(data.root_names))[data.roots] > 0

    found: list[tuple[str, int, str]] = []  # kind, row, answer
    for row, (name, tone) in enumerate(zip(names, tones, strict=True)):
        who = _WHO.findall(name)
        found.append(("group", row, data.group_names[data.groups[row]]))
        if variants[row] >= VARIANTS:
            found.append(("what", row, data.root_names[data.roots[row]]))
        if len(tone) == 1:
            found.append(("tone", row, tone[0]))
        elif not tone and has_tones[row]:
            found.append(("tone", row, "none"))
        # The Isle of Man is none.
        if len(who) == 1 and who[0] in ("man", "woman", "person") and data.group_names[data.groups[row]] == PEOPLE:
            found.append(("who", row, who[0]))

    answers = sorted({(KINDS.index(kind), answer) for kind, _, answer in found})
    number = {answer: i for i, answer in enumerate(answers)}
    return Questions(
        rows=np.array([row for _, row, _ in found]),
        kinds=np.array([KINDS.index(kind) for kind, _, _ in found]),
        answers=np.array([number[KINDS.index(kind), answer] for kind, _, answer in found]),
        answer_names=tuple(answer for _, answer in answers),
        answer_kinds=np.array([kind for kind, _ in answers]),
    )


def split(data: EmojiSet, questions: Questions, seed: int, test_share: float = 0.12) -> tuple[Questions, Questions]:
    """-> questions to learn from, and questions to be tested by, about pictures that the first never show.

    Groups, tones and persons are tested on concepts that were never seen. What a thing is called can only be tested
    where the concept was seen: on pictures that were set aside, a sixth of those of each concept.
    """
    rest, unseen = data.split_by_concept(seed, (1 - test_share, test_share))
    what = KINDS.index("what")
    rng = np.random.default_rng(seed)
    asked = np.zeros(len(data), bool)
    asked[questions.rows[questions.kinds == what]] = True
    aside: list[np.ndarray] = []
    for root in np.unique(data.roots[rest]):
        pictures = np.unique(data.pictures[rest[(data.roots[rest] == root) & asked[rest]]])
        aside.append(rng.permutation(pictures)[: len(pictures) // VARIANTS])
    is_aside = np.isin(data.pictures, np.concatenate(aside))
    is_unseen = np.isin(np.arange(len(data)), unseen)
    of_what, rows = questions.kinds == what, questions.rows
    test = np.where(of_what, is_aside[rows] & ~is_unseen[rows], is_unseen[rows])
    return questions.take(~(is_aside | is_unseen)[rows]), questions.take(test)
