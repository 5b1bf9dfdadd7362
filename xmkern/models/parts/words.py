"""Masked words, their prediction, and what padding means."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.data.words import MASK, PAD, SPECIAL
from xmkern.functional import bias_activation

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]

IGNORED = -100  # what torch's cross entropy leaves out


def lengths(words: Tensor) -> Tensor:
    """How many words int64 [B, T] each sentence has: [B]."""
    return (words != PAD).sum(1)


def there(words: Tensor) -> Tensor:
    """bool [B, T]: which words int64 [B, T] are no padding."""
    return words != PAD


class Masked(NamedTuple):
    """Words of which some are hidden, int64 [B, T], and what stood there; IGNORED elsewhere."""

    words: Tensor
    targets: Tensor


def mask_words(words: Tensor, vocabulary: int, share: float = 0.15) -> Masked:
    """Hides a share of the words, at least one a sentence: 80 % become MASK, 10 % another word, 10 % stay (BERT)."""
    chance = torch.rand(words.shape, device=words.device).masked_fill(words < SPECIAL, 2)
    hidden = (chance < share) | ((chance == chance.amin(1, keepdim=True)) & (chance < 1))
    fate = torch.rand(words.shape, device=words.device)
    other = torch.randint_like(words, SPECIAL, vocabulary)
    shown = torch.where(hidden & (fate < 0.8), MASK, torch.where(hidden & (fate > 0.9), other, words))
    return Masked(shown, words.masked_fill(~hidden, IGNORED))


class WordHead(nn.Module):
    """Predicts words from tokens by the word embedding itself (BERT's head; Devlin et al., 2019).

    Args:
        dim: E of a token.
        embedding: [vocabulary, E], whose weight is shared.
        activation: between the transform and its norm.
    """

    def __init__(
        self, dim: int, embedding: nn.Embedding, *, activation: Activation = "gelu", eps: float = 1e-12
    ) -> None:
        super().__init__()
        self.activation = activation
        self.transform, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim, eps)
        self.word = nn.Linear(dim, embedding.num_embeddings)
        self.word.weight = embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] -> [..., vocabulary]"""
        x = bias_activation(F.linear(x, self.transform.weight), self.transform.bias, self.activation)
        return self.word(self.norm(x))


class Pooler(nn.Module):
    """tanh(W x) of the first token: [B, L, E] -> [B, E]"""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x[:, 0]).tanh()


class AnswerHead(nn.Sequential):
    """What question answering puts on a pooled token, as in LXMERT and ViLT: [B, E] -> [B, answers]"""

    def __init__(self, dim: int, answers: int) -> None:
        super().__init__(nn.Linear(dim, 2 * dim), nn.GELU(), nn.LayerNorm(2 * dim, 1e-12), nn.Linear(2 * dim, answers))


def masked_word_loss(head: WordHead, tokens: Tensor, targets: Tensor) -> Tensor:
    """:func:`word_loss` of what a head makes of [B, T, E], which it is asked only where int64 [B, T] is not IGNORED."""
    hidden = targets != IGNORED
    return _mean_over(F.cross_entropy(head(tokens[hidden]).float(), targets[hidden], reduction="sum"), hidden)


def word_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of [B, T, vocabulary] with int64 [B, T] in float32, without what is IGNORED."""
    total = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return _mean_over(total, targets != IGNORED)


def _mean_over(total: Tensor, counted: Tensor) -> Tensor:
    """0 where nothing counts."""
    return total / counted.sum().clamp(min=1)
