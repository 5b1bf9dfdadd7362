"""Hierarchical question-image co-attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.functional import alternating_co_attention, parallel_co_attention
from xmkern.models.parts.convolutions import VGG16, Vgg
from xmkern.models.parts.regions import FEATURES, grid_regions
from xmkern.models.parts.words import lengths
from xmkern.models.registry import register

LEVELS = ("word", "phrase", "question")


@dataclass(frozen=True)
class HieCoAttConfig:
    """VGG-16 at 448 pixels; ``stages``: none where the cells of a grid stand for its regions; ``attention``: "parallel"
    or "alternating"; ``wide``: before the answers."""

    stages: tuple[tuple[int, ...], ...] = VGG16
    norm: bool = False
    vocabulary: int = 12770
    dim: int = 512
    hidden: int = 512
    wide: int = 1024
    answers: int = 1000
    attention: str = "parallel"
    dropout: float = 0.5


class HieCoAttOutput(NamedTuple):
    """Axes: ``B`` batch, ``A`` answers, ``T`` words, ``R`` regions, 3 levels: word, phrase, question.

    Attributes:
        logits: [B, A].
        words: [B, 3, T], how much of the attention each word has.
        regions: [B, 3, R].
    """

    logits: Tensor
    words: Tensor
    regions: Tensor


class CoAttention(nn.Module):
    """One level: questions [B, T, E] and regions [B, R, E] -> a vector of each, and the weights of their rows."""

    def __init__(self, dim: int, hidden: int, kind: str) -> None:
        super().__init__()
        if kind not in ("parallel", "alternating"):
            raise ValueError(f"attention must be 'parallel' or 'alternating', not {kind!r}")
        self.kind = kind
        steps = 2 if kind == "parallel" else 3
        self.hidden = nn.ModuleList(nn.Linear(dim, hidden) for _ in range(steps))
        self.weights = nn.ParameterList(torch.randn(hidden) * hidden**-0.5 for _ in range(steps))
        # The affinity of the parallel kind, or what the alternating one reads of the vector before.
        shared = 1 if kind == "parallel" else 2
        self.guides = nn.ModuleList(
            nn.Linear(dim, dim if kind == "parallel" else hidden, bias=False) for _ in range(shared)
        )

    def forward(self, words: Tensor, regions: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self.kind == "parallel":
            of_words, of_regions = self.hidden
            return parallel_co_attention(
                words, regions, self.guides[0](words), regions, of_words(words), of_regions(regions), *self.weights,
                mask_a=count,
            )  # fmt: skip
        rows = (words, regions, words)
        hidden = [layer(x) for layer, x in zip(self.hidden, rows, strict=True)]
        guides: Any = [guide.weight for guide in self.guides]
        return alternating_co_attention(words, regions, hidden, guides, list(self.weights), mask_a=count)


@register(
    section="F",
    paper="Lu et al., Hierarchical Question-Image Co-Attention for Visual Question Answering, NIPS 2016",
    tiny=HieCoAttConfig((), False, 256, 128, 128, 256, 256, dropout=0.1),
    full=HieCoAttConfig(),
    kernels=("bi_attention", "additive_pool"),
)
class HieCoAtt(nn.Module):
    """Words, phrases and the whole question each attend to the regions while the regions attend to them.

    Axes: ``B`` batch, ``T`` words, ``R`` regions, ``E`` the embedding, ``A`` answers.
    """

    def __init__(self, config: HieCoAttConfig) -> None:
        super().__init__()
        self.config = c = config
        self.vision = Vgg(c.stages, norm=c.norm) if c.stages else None
        self.region = nn.Linear(self.vision.width if self.vision else FEATURES + 4, c.dim)
        self.words = nn.Embedding(c.vocabulary, c.dim, padding_idx=0)
        self.grams = nn.ModuleList(nn.Conv1d(c.dim, c.dim, n) for n in (1, 2, 3))
        self.question = nn.LSTM(c.dim, c.dim, batch_first=True)
        self.levels = nn.ModuleList(CoAttention(c.dim, c.hidden, c.attention) for _ in LEVELS)
        self.join = nn.ModuleList(
            nn.Linear(c.dim if i == 0 else c.dim + c.hidden, c.wide if i == 2 else c.hidden) for i in range(3)
        )
        self.dropout = nn.Dropout(c.dropout)
        self.out = nn.Linear(c.wide, c.answers)

    def read(self, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """int64 [B, T] -> words, phrases (of one to three words, whichever is the greatest) and question, [B, T, E]"""
        x = self.words(words)
        grams = [gram(F.pad(x.mT, (i // 2, i - i // 2))) for i, gram in enumerate(self.grams)]
        phrases = torch.stack(grams).tanh().amax(0).mT
        return x, phrases, self.question(self.dropout(phrases))[0]

    def forward(self, pictures: Tensor, words: Tensor) -> HieCoAttOutput:
        """[B, 3, H, W] and a question, int64 [B, T]"""
        seen = self.vision.regions(pictures) if self.vision else torch.cat(grid_regions(pictures), -1)
        regions = self.dropout(self.region(seen).tanh())
        joined, found = None, []
        for level, join, x in zip(self.levels, self.join, self.read(words), strict=True):
            pooled_words, pooled_regions, *weights = level(x, regions, lengths(words))
            both = self.dropout(pooled_words + pooled_regions)
            joined = join(both if joined is None else torch.cat([both, joined], 1)).tanh()
            found.append(weights)
        of_words, of_regions = (torch.stack(each, 1) for each in zip(*found, strict=True))
        return HieCoAttOutput(self.out(self.dropout(joined)), of_words, of_regions)

    def answer(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and a question, int64 [B, T] -> logits [B, A]"""
        return self(pictures, words).logits

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross entropy of ``answers`` [B], after ``pictures`` [B, 3, H, W] and ``words`` int64 [B, T]."""
        return F.cross_entropy(self.answer(batch["pictures"], batch["words"]), batch["answers"])
