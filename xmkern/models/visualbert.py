"""VisualBERT."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern import masks
from xmkern.models.parts.embeddings import WordEmbedding
from xmkern.models.parts.encoder import Transformer
from xmkern.models.parts.reference_names import HEAD_NAMES, LAYER_NAMES, WORD_NAMES
from xmkern.models.parts.region_tasks import RegionModel, RegionOutput, mismatch, only
from xmkern.models.parts.regions import FEATURES
from xmkern.models.parts.words import AnswerHead, Pooler, WordHead, lengths, mask_words, masked_word_loss
from xmkern.models.registry import register


@dataclass(frozen=True)
class VisualBertConfig:
    """BERT-base with regions of 2048 features; ``answers``: of the question answering head, 0 for none."""

    features: int = 2048
    vocabulary: int = 30522
    length: int = 512
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    dropout: float = 0.1
    answers: int = 0


@register(
    section="C",
    paper="Li et al., VisualBERT: A Simple and Performant Baseline for Vision and Language, arXiv:1908.03557, 2019",
    tiny=VisualBertConfig(FEATURES, 2048, 32, 128, 3, 4, 512, 0.1, 256),
    full=VisualBertConfig(),
    kernels=("attention",),
    parity="transformers.VisualBertForPreTraining",
    parameters=112_074_812,  # of the parity class, with 2048 features
)
class VisualBert(RegionModel):
    """Regions stand beside words in one BERT, which aligns them by nothing but its own attention.

    A region's token is the sum of its projected features, a segment and a place, as a word's is, and is normed with the
    words. Trained by masked words and by whether the sentence is the picture's; where a region lies it is not told.

    Axes: ``B`` batch, ``R`` regions, ``F`` their features, ``T`` words, ``E`` the embedding, ``A`` answers.
    """

    reference_names = (
        (r"^visual_bert\.embeddings\.visual_token_type_embeddings", "region_segment"),
        (r"^visual_bert\.embeddings\.visual_position_embeddings", "region_place"),
        (r"^visual_bert\.embeddings\.visual_projection", "region"),
        *WORD_NAMES,
        (r"^visual_bert\.encoder\.layer\.(\d+)\.", r"encoder.blocks.\1."),
        *LAYER_NAMES,
        (r"^visual_bert\.pooler", "pooler"),
        *HEAD_NAMES,
    )
    reference_lacks = ("answer_head",)

    def __init__(self, config: VisualBertConfig) -> None:
        super().__init__()
        self.config = c = config
        self.words = WordEmbedding(c.vocabulary, c.length, c.dim, segments=2, norm=True, dropout=c.dropout)
        self.region = nn.Linear(c.features, c.dim)
        self.region_segment, self.region_place = nn.Embedding(2, c.dim), nn.Embedding(c.length, c.dim)
        self.encoder = Transformer(
            c.dim, c.depth, c.heads, order="post", hidden=c.hidden, dropout=c.dropout, attention_dropout=c.dropout,
            eps=1e-12,
        )  # fmt: skip
        self.pooler = Pooler(c.dim)
        self.word_head = WordHead(c.dim, self.words.word)
        self.match_head = nn.Linear(c.dim, 2)
        self.answer_head = AnswerHead(c.dim, c.answers) if c.answers else None
        # Both kinds of token begin with the same segments and places.
        with torch.no_grad():
            self.region_segment.weight.copy_(self.words.segment.weight)  # type: ignore[union-attr]
            self.region_place.weight.copy_(self.words.place.weight)

    def forward(self, regions: Tensor, boxes: Tensor | None, words: Tensor) -> RegionOutput:
        """[B, R, F], boxes that are not read, and int64 [B, T]"""
        tokens = self.region(regions) + self.region_segment.weight[1] + self.region_place.weight[0]
        tokens = self.words.dropout(self.words.norm(tokens))
        # The regions stand first, so that padding is all at the end.
        count = tokens.shape[1]
        x = torch.cat([tokens, self.words(words)], 1)
        x = self.encoder(x, mask=masks.key_lengths(lengths(words) + count))
        return RegionOutput(x[:, count:], x[:, :count], self.pooler(x[:, count:]))

    def pretrain(self, regions: Tensor, boxes: Tensor, words: Tensor) -> Tensor:
        """Of masked words, in the sentences that are the picture's own, and of which those are."""
        words, match = mismatch(words)
        hidden = mask_words(words, self.config.vocabulary)
        out = self(regions, boxes, hidden.words)
        loss = masked_word_loss(self.word_head, out.words, only(hidden.targets, match))
        return loss + F.cross_entropy(self.match_head(out.pooled), match)
