"""UNITER."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern import masks
from xmkern.functional import optimal_transport_alignment
from xmkern.models.parts.embeddings import RegionEmbedding, WordEmbedding
from xmkern.models.parts.encoder import Transformer
from xmkern.models.parts.region_tasks import COLOURS, RegionModel, RegionOutput, choose_regions, mismatch, region_labels
from xmkern.models.parts.regions import FEATURES
from xmkern.models.parts.words import AnswerHead, Pooler, WordHead, lengths, mask_words, masked_word_loss, there
from xmkern.models.registry import register


@dataclass(frozen=True)
class UniterConfig:
    """UNITER-base; ``classes``: of a region, by the detector; ``answers``: 0 for no such head."""

    features: int = 2048
    classes: int = 1601
    vocabulary: int = 28996
    length: int = 512
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    dropout: float = 0.1
    alignment_weight: float = 0.1
    answers: int = 0


class RegionHeads(nn.Module):
    """What stood where a region is hidden: its features, by the weights that project them, and its class.

    Axes: ``F`` features, ``E`` the embedding, ``C`` classes.
    """

    def __init__(self, dim: int, project: nn.Linear, classes: int) -> None:
        super().__init__()
        self.to_features, self.to_class = (
            nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim, 1e-12)) for _ in range(2)
        )
        self.project = project.weight
        self.bias = nn.Parameter(torch.zeros(project.in_features))
        self.kind = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[..., E] -> [..., F] and logits [..., C]"""
        return F.linear(self.to_features(x), self.project.mT, self.bias), self.kind(self.to_class(x))


@register(
    section="C",
    paper="Chen et al., UNITER: UNiversal Image-TExt Representation Learning, ECCV 2020",
    tiny=UniterConfig(FEATURES, COLOURS, 2048, 16, 128, 3, 4, 512, 0.1, 0.1, 256),
    full=UniterConfig(),
    kernels=("attention", "transport_plan"),
    parameters=112_938_887,  # of the authors' pretraining model; the paper's 86 M leave the words' table out
)
class Uniter(RegionModel):
    """One stream, in which either words or regions are masked, and optimal transport aligns the one with the other.

    A region's token knows where it lies, in seven numbers. Trained by masked words; by masked regions, of which it
    tells the features, the class and the detector's distribution over classes; by pairs that match; and by the cost of
    moving the words onto the regions, small for a pair that matches and large for another.

    Axes: ``B`` batch, ``R`` regions, ``F`` their features, ``T`` words, ``E`` the embedding, ``A`` answers.
    """

    def __init__(self, config: UniterConfig) -> None:
        super().__init__()
        self.config = c = config
        self.words = WordEmbedding(c.vocabulary, c.length, c.dim, segments=2, norm=True, dropout=c.dropout)
        self.hidden_region = nn.Parameter(torch.randn(c.features) * 0.02)
        self.regions = RegionEmbedding(c.features, 7, c.dim)
        self.region_norm, self.dropout = nn.LayerNorm(c.dim, 1e-12), nn.Dropout(c.dropout)
        self.encoder = Transformer(
            c.dim, c.depth, c.heads, order="post", hidden=c.hidden, dropout=c.dropout, attention_dropout=c.dropout,
            eps=1e-12,
        )  # fmt: skip
        self.pooler = Pooler(c.dim)
        self.word_head = WordHead(c.dim, self.words.word)
        self.region_heads = RegionHeads(c.dim, self.regions.feature, c.classes)
        self.match_head = nn.Linear(c.dim, 2)
        self.answer_head = AnswerHead(c.dim, c.answers) if c.answers else None

    def forward(self, regions: Tensor, boxes: Tensor, words: Tensor, hidden: Tensor | None = None) -> RegionOutput:
        """[B, R, F], [B, R, 4] and int64 [B, T]; ``hidden``, bool [B, R]: regions whose features are not shown."""
        if hidden is not None:
            regions = torch.where(hidden[:, :, None], self.hidden_region, regions)
        segment = self.words.segment.weight[1]  # type: ignore[union-attr]
        seen = self.dropout(self.region_norm(self.regions(regions, seven(boxes)) + segment))
        # The regions stand first, so that padding is all at the end.
        count = seen.shape[1]
        x = torch.cat([seen, self.words(words)], 1)
        x = self.encoder(x, mask=masks.key_lengths(lengths(words) + count))
        return RegionOutput(x[:, count:], x[:, :count], self.pooler(x[:, count:]))

    def pretrain(self, regions: Tensor, boxes: Tensor, words: Tensor) -> Tensor:
        """Of all tasks, each of which hides nothing of the other modality."""
        shown = mask_words(words, self.config.vocabulary)
        loss = masked_word_loss(self.word_head, self(regions, boxes, shown.words).words, shown.targets)

        hidden = choose_regions(regions)
        features, logits = self.region_heads(self(regions, boxes, words, hidden).regions[hidden])
        shares = region_labels(regions).classes[hidden]
        loss = loss + F.mse_loss(features, regions[hidden]) + F.cross_entropy(logits, shares.argmax(1))
        loss = loss + F.kl_div(logits.log_softmax(1), shares, reduction="batchmean")

        words, match = mismatch(words)
        out = self(regions, boxes, words)
        loss = loss + F.cross_entropy(self.match_head(out.pooled), match)
        cost = optimal_transport_alignment(out.words, out.regions, there(words))
        return loss + self.config.alignment_weight * (cost * (2 * match - 1)).mean()


def seven(boxes: Tensor) -> Tensor:
    """Left, top, right and bottom [..., 4] -> those, width, height and area [..., 7]"""
    width, height = (boxes[..., 2:] - boxes[..., :2]).split(1, -1)
    return torch.cat([boxes, width, height, width * height], -1)
