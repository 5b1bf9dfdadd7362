"""Object-difference attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.models.parts.regions import FEATURES, grid_regions
from xmkern.models.parts.words import lengths
from xmkern.models.registry import register


@dataclass(frozen=True)
class OdaConfig:
    """``features``: of a region; ``glimpses``: how many attentions look side by side."""

    features: int = 2048
    vocabulary: int = 15000
    word_dim: int = 620
    dim: int = 2400
    hidden: int = 512
    glimpses: int = 4
    answers: int = 3000
    dropout: float = 0.5


class OdaOutput(NamedTuple):
    """Axes: ``B`` batch, ``A`` answers, ``R`` regions, ``G`` glimpses.

    Attributes:
        logits: [B, A].
        weights: [B, R, G], how much of each glimpse a region has.
    """

    logits: Tensor
    weights: Tensor


@register(
    section="F",
    paper="Wu et al., Object-Difference Attention: A Simple Relational Attention for VQA, ACM Multimedia 2018",
    tiny=OdaConfig(FEATURES, 256, 64, 128, 128, 2, 256, 0.1),
    full=OdaConfig(),
)
class Oda(nn.Module):
    """An object is attended to for how it differs from each other object, in what the question is about.

    With z_i = (W v_i) * (U q), object i scores the mean over all j of w . tanh(z_i - z_j), and the weights are the
    softmax over i. Without the tanh the differences would cancel out and leave an ordinary attention.

    Axes: ``B`` batch, ``T`` words, ``R`` regions, ``F`` their features, ``A`` answers.
    """

    def __init__(self, config: OdaConfig) -> None:
        super().__init__()
        self.config = c = config
        self.region = nn.Sequential(nn.Linear(c.features + 4, c.dim), nn.ReLU(), nn.Dropout(c.dropout))
        self.words = nn.Embedding(c.vocabulary, c.word_dim, padding_idx=0)
        self.question = nn.GRU(c.word_dim, c.dim, batch_first=True)
        self.of_region, self.of_question = nn.Linear(c.dim, c.hidden), nn.Linear(c.dim, c.hidden)
        self.score = nn.Linear(c.hidden, c.glimpses, bias=False)
        self.seen, self.asked = nn.Linear(c.glimpses * c.dim, c.dim), nn.Linear(c.dim, c.dim)
        self.out = nn.Sequential(nn.Dropout(c.dropout), nn.Linear(c.dim, c.answers))

    def forward(self, regions: tuple[Tensor, Tensor], words: Tensor) -> OdaOutput:
        """Features [B, R, F] and boxes [B, R, 4], and a question, int64 [B, T]"""
        x = self.region(torch.cat(regions, -1))
        states, _ = self.question(self.words(words))
        question = states[torch.arange(len(words), device=words.device), lengths(words) - 1]
        z = self.of_region(x) * self.of_question(question)[:, None]
        differences = (z[:, :, None] - z[:, None]).tanh().mean(2)
        weights = self.score(differences).softmax(1)
        seen = (weights.mT @ x).flatten(1)
        return OdaOutput(self.out(self.seen(seen).relu() * self.asked(question).relu()), weights)

    def answer(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and a question, int64 [B, T] -> logits [B, A]"""
        return self(grid_regions(pictures), words).logits

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross entropy of ``answers`` [B], after ``pictures`` [B, 3, H, W] and ``words`` int64 [B, T]."""
        return F.cross_entropy(self.answer(batch["pictures"], batch["words"]), batch["answers"])
