"""Sentences word by word: greedy, beam and nucleus search over decoders that remember what they have read."""

from collections.abc import Callable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.nn import functional as F

from xmkern.data.words import BEGIN, END, PAD
from xmkern.models.parts.words import word_loss
from xmkern.nn import KeyValueCache


class Reader:
    """A decoder amid its sentences: what it has read, and the step that reads on.

    Axes: ``B`` sentences, ``L`` words that are new, ``V`` vocabulary.

    Args:
        read: ``read(words int64 [B, L], state) -> logits [B, V]`` of the word after the last; it changes the state.
        state: by name, whatever the step needs, of tensors whose first axis is B and of :class:`KeyValueCache`.
    """

    def __init__(self, read: Callable[[Tensor, dict[str, Any]], Tensor], state: dict[str, Any]) -> None:
        self.read, self.state = read, state

    def step(self, words: Tensor) -> Tensor:
        """Reads on: int64 [B, L] -> logits [B, V]"""
        return self.read(words, self.state)

    def select(self, rows: Tensor) -> None:
        """The sentences become those of these numbers, int64 [B']."""

        def chosen(held: Any) -> Any:
            if isinstance(held, KeyValueCache):
                held.select(rows)
            return held[rows] if isinstance(held, Tensor) else held

        self.state = pytree.tree_map(chosen, self.state)


def begin(count: int) -> Tensor:
    """What sentences start with: BEGIN, int64 [count, 1]."""
    return torch.full((count, 1), BEGIN)


@torch.no_grad()
def greedy(reader: Reader, words: Tensor, *, length: int, end: int = END) -> Tensor:
    """The likeliest word, again and again.

    Args:
        reader: before ``words``.
        words: int64 [B, L], what the sentences start with.
        length: how many words follow at most.
        end: after this word there is only padding.

    Returns:
        int64 [B, T] with T at most ``length``: the words that follow.
    """
    return _walk(reader, words, length, end, lambda logits: logits.argmax(-1))


@torch.no_grad()
def nucleus(
    reader: Reader,
    words: Tensor,
    *,
    length: int,
    share: float = 0.9,
    temperature: float = 1.0,
    end: int = END,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Drawn from the fewest words that together have the ``share`` of the probability (Holtzman et al., 2020).

    ``temperature`` divides the logits first; the other arguments and the result are those of :func:`greedy`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, not {share}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}; greedy search takes the likeliest word")

    def draw(logits: Tensor) -> Tensor:
        chances, order = (logits.float() / temperature).softmax(-1).sort(-1, descending=True)
        chances = chances.masked_fill(chances.cumsum(-1) - chances >= share, 0)
        return order.gather(-1, chances.multinomial(1, generator=generator))[:, 0]

    return _walk(reader, words, length, end, draw)


def _walk(reader: Reader, words: Tensor, length: int, end: int, choose: Callable[[Tensor], Tensor]) -> Tensor:
    if not len(words) or not length:
        return words.new_empty(len(words), length)
    found: list[Tensor] = []
    over = torch.zeros(len(words), dtype=torch.bool, device=words.device)
    while len(found) < length and not over.all():
        chosen = choose(reader.step(words)).masked_fill(over, PAD)
        found.append(chosen)
        over = over | (chosen == end)
        words = chosen[:, None]
    return torch.stack(found, 1)


@torch.no_grad()
def beam(
    reader: Reader, words: Tensor, *, length: int, beams: int = 4, length_penalty: float = 1.0, end: int = END
) -> Tensor:
    """The best of several sentences that are followed side by side.

    A sentence of n words is worth the sum of their log probabilities divided by n to the ``length_penalty``; the search
    ends where no sentence under way is worth more, at its present length, than the worst of the ``beams`` best that
    have ended. The same search as ``generate`` of transformers with ``num_beams``.

    Args:
        reader, words, length, end: of :func:`greedy`.
        beams: how many sentences are followed.
        length_penalty: above 0 for longer sentences, below for shorter ones.

    Returns:
        int64 [B, T], the best sentence of each.
    """
    if not len(words) or not length:
        return words.new_empty(len(words), length)
    count, device = len(words), words.device
    logits = reader.step(words)
    rows = torch.arange(count, device=device)[:, None]
    reader.select(rows.expand(-1, beams).flatten())
    logits = logits[rows.expand(-1, beams).flatten()]
    running = torch.full((count, beams), -torch.inf, device=device)
    running[:, 0] = 0  # at first all are the same: one of them stands for all
    sentences = torch.empty(count, beams, 0, dtype=torch.long, device=device)
    best = torch.full((count, beams, length), PAD, device=device)
    worth = torch.full((count, beams), -torch.inf, device=device)
    open_ = torch.ones(count, 1, dtype=torch.bool, device=device)
    for n in range(1, length + 1):
        chances = running[..., None] + F.log_softmax(logits.float(), -1).view(count, beams, -1)
        top, place = chances.flatten(1).topk(2 * beams)
        origin, word = place // chances.shape[2], place % chances.shape[2]
        followed = torch.cat([sentences[rows, origin], word[..., None]], 2)
        ended = word == end if n < length else torch.ones_like(word, dtype=torch.bool)

        # Of twice as many as are followed only the better half may end: the others are there to take their places.
        ends = ended & open_ & (torch.arange(2 * beams, device=device) < beams)
        worth = torch.cat([worth, (top / n**length_penalty).masked_fill(~ends, -torch.inf)], 1)
        worth, kept = worth.topk(beams)
        best = torch.cat([best, F.pad(followed, (0, length - n), value=PAD)], 1)[rows, kept]

        running, kept = top.masked_fill(ended, -torch.inf).topk(beams)
        sentences = followed[rows, kept]
        open_ = open_ & (running[:, :1] / n**length_penalty > worth[:, -1:])
        if n == length or not open_.any():
            break
        reader.select((rows * beams + origin[rows, kept]).flatten())
        logits = reader.step(sentences[..., -1].flatten()[:, None])
    return best[:, 0]


def next_word_loss(logits: Tensor, words: Tensor) -> Tensor:
    """Cross entropy of logits [B, T, V], one for each of the words int64 [B, T], with the word that follows it."""
    targets = words[:, 1:]
    return word_loss(logits[:, :-1], targets.masked_fill(targets == PAD, -100))
