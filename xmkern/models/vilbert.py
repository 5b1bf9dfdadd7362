"""ViLBERT."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern import masks
from xmkern.models.parts.embeddings import WordEmbedding
from xmkern.models.parts.encoder import Transformer
from xmkern.models.parts.region_tasks import COLOURS, RegionModel, choose_regions, mismatch, only, region_labels
from xmkern.models.parts.regions import FEATURES
from xmkern.models.parts.words import AnswerHead, WordHead, lengths, mask_words, masked_word_loss
from xmkern.models.registry import register
from xmkern.nn import CoAttentionBlock


@dataclass(frozen=True)
class VilbertConfig:
    """BERT-base and six layers of regions; ``classes``: of a region, by the detector; ``answers``: 0 for none.

    The last ``region_depth`` layers of the words and those of the regions each follow a layer of co-attention.
    """

    features: int = 2048
    classes: int = 1601
    vocabulary: int = 30522
    length: int = 512
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    region_dim: int = 1024
    region_depth: int = 6
    region_heads: int = 8
    region_hidden: int = 1024
    dropout: float = 0.1
    answers: int = 0


class VilbertOutput(NamedTuple):
    """Axes: ``B`` batch, ``T`` words, ``R`` regions, ``E`` and ``V`` the embeddings of both.

    Attributes:
        words: [B, T, E].
        regions: [B, R, V].
        pooled: [B, V], the product of both first tokens, projected.
    """

    words: Tensor
    regions: Tensor
    pooled: Tensor


@register(
    section="D",
    paper="Lu et al., ViLBERT: Pretraining Task-Agnostic Visiolinguistic Representations for Vision-and-Language "
    "Tasks, NeurIPS 2019",
    tiny=VilbertConfig(FEATURES, COLOURS, 2048, 16, 128, 3, 4, 512, 128, 2, 4, 256, 0.1, 256),
    full=VilbertConfig(),
    kernels=("attention", "cross_attention"),
    parameters=239_023_229,  # of the authors' implementation, without the projections that it holds and never calls
)
class Vilbert(RegionModel):
    """Words and regions are read apart and meet in layers where the queries of each read the keys of the other.

    The streams differ in width and depth. The first region is the whole picture, which stands for all of it as the
    first word does for the sentence. Trained by masked words, by the classes of masked regions, and by pairs that
    match.

    Axes: ``B`` batch, ``R`` regions, ``F`` their features, ``T`` words, ``E`` and ``V`` the embeddings, ``A`` answers.
    """

    def __init__(self, config: VilbertConfig) -> None:
        super().__init__()
        self.config = c = config
        if not 0 < c.region_depth <= c.depth:
            raise ValueError(f"region_depth must be 1 to depth = {c.depth}, not {c.region_depth}")
        common: dict[str, Any] = {"dropout": c.dropout, "attention_dropout": c.dropout, "eps": 1e-12}
        text: dict[str, Any] = {"order": "post", "hidden": c.hidden, **common}
        self.words = WordEmbedding(c.vocabulary, c.length, c.dim, segments=2, norm=True, dropout=c.dropout)
        self.feature, self.box = nn.Linear(c.features, c.region_dim), nn.Linear(5, c.region_dim)
        self.region_norm, self.dropout = nn.LayerNorm(c.region_dim, 1e-12), nn.Dropout(c.dropout)
        self.encoder = Transformer(c.dim, c.depth, c.heads, **text)
        self.region_encoder = Transformer(
            c.region_dim, c.region_depth, c.region_heads, order="post", hidden=c.region_hidden, **common
        )
        self.co_attention = nn.ModuleList(
            CoAttentionBlock(
                c.dim, c.region_dim, c.region_heads, attention_dim=c.region_dim, hidden_a=c.hidden,
                hidden_b=c.region_hidden, **common,
            )
            for _ in range(c.region_depth)
        )  # fmt: skip
        self.pool_words, self.pool_regions = nn.Linear(c.dim, c.region_dim), nn.Linear(c.region_dim, c.region_dim)
        self.word_head = WordHead(c.dim, self.words.word)
        self.region_head = nn.Sequential(
            nn.Linear(c.region_dim, c.region_dim), nn.GELU(), nn.LayerNorm(c.region_dim, 1e-12),
            nn.Linear(c.region_dim, c.classes),
        )  # fmt: skip
        self.match_head = nn.Linear(c.region_dim, 2)
        self.answer_head = AnswerHead(c.region_dim, c.answers) if c.answers else None

    def forward(self, regions: Tensor, boxes: Tensor, words: Tensor) -> VilbertOutput:
        """[B, R, F], of which the first is the whole picture, [B, R, 4] and int64 [B, T]"""
        mask = masks.key_lengths(lengths(words))
        area = (boxes[..., 2:] - boxes[..., :2]).prod(-1, keepdim=True)
        seen = self.feature(regions) + self.box(torch.cat([boxes, area], -1))
        text, seen = self.words(words), self.dropout(self.region_norm(seen))
        alone = self.config.depth - self.config.region_depth
        for block in self.encoder.blocks[:alone]:
            text = block(text, mask=mask)
        pairs = zip(self.co_attention, self.encoder.blocks[alone:], self.region_encoder.blocks, strict=True)
        for meet, word_block, region_block in pairs:
            text, seen = meet(text, seen, mask)
            text, seen = word_block(text, mask=mask), region_block(seen)
        pooled = self.pool_words(text[:, 0]).relu() * self.pool_regions(seen[:, 0]).relu()
        return VilbertOutput(text, seen, self.dropout(pooled))

    def pretrain(self, regions: Tensor, boxes: Tensor, words: Tensor) -> Tensor:
        """Of masked words and masked regions, where the sentence is the picture's own, and of whether it is."""
        words, match = mismatch(words)
        hidden, chosen = mask_words(words, self.config.vocabulary), choose_regions(regions)
        out = self(regions.masked_fill(chosen[:, :, None], 0), boxes, hidden.words)
        loss = masked_word_loss(self.word_head, out.words, only(hidden.targets, match))
        chosen = chosen & (match[:, None] == 1)
        found = self.region_head(out.regions[chosen]).log_softmax(1)
        loss = loss + F.kl_div(found, region_labels(regions).classes[chosen], reduction="batchmean")
        return loss + F.cross_entropy(self.match_head(out.pooled), match)
