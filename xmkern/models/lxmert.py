"""LXMERT."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from xmkern import masks
from xmkern.models.parts.embeddings import RegionEmbedding, WordEmbedding
from xmkern.models.parts.encoder import Transformer
from xmkern.models.parts.reference_names import HEAD_NAMES, LAYER_NAMES, WORD_NAMES
from xmkern.models.parts.region_tasks import (
    COLOURS,
    FULLNESS,
    RegionModel,
    RegionOutput,
    choose_regions,
    mismatch,
    only,
    region_labels,
)
from xmkern.models.parts.regions import FEATURES
from xmkern.models.parts.words import AnswerHead, Pooler, WordHead, lengths, mask_words, masked_word_loss
from xmkern.models.registry import register
from xmkern.nn import CrossModalityBlock


@dataclass(frozen=True)
class LxmertConfig:
    """The paper's; ``classes`` and ``attributes``: of a region, by the detector; ``answers``: 0 for no such head."""

    features: int = 2048
    classes: int = 1600
    attributes: int = 400
    vocabulary: int = 30522
    length: int = 512
    dim: int = 768
    word_depth: int = 9
    region_depth: int = 5
    cross_depth: int = 5
    heads: int = 12
    hidden: int = 3072
    dropout: float = 0.1
    answers: int = 9500


class RegionHead(nn.Module):
    """What a region is, of what kind, and its features: [..., E] -> [..., classes], [..., attributes], [..., F]"""

    def __init__(self, dim: int, *outputs: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim, 1e-12))
        self.outputs = nn.ModuleList(nn.Linear(dim, output) for output in outputs)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.transform(x)
        return [output(x) for output in self.outputs]


@register(
    section="D",
    paper="Tan and Bansal, LXMERT: Learning Cross-Modality Encoder Representations from Transformers, EMNLP 2019",
    tiny=LxmertConfig(FEATURES, COLOURS, FULLNESS, 2048, 16, 128, 2, 1, 2, 4, 512, 0.1, 256),
    full=LxmertConfig(),
    kernels=("attention", "cross_attention"),
    parity="transformers.LxmertForPreTraining",
    parameters=228_051_752,
)
class Lxmert(RegionModel):
    """Words and regions each have an encoder, and a third lets them read each other, by one set of weights both ways.

    Trained by masked words, masked regions (their features, class and attribute), pairs that match, and answers to
    questions.

    Axes: ``B`` batch, ``R`` regions, ``F`` their features, ``T`` words, ``E`` the embedding, ``A`` answers.
    """

    reference_names = (
        *WORD_NAMES,
        (r"^lxmert\.encoder\.visn_fc\.visn_fc", "regions.feature"),
        (r"^lxmert\.encoder\.visn_fc\.visn_layer_norm", "regions.feature_norm"),
        (r"^lxmert\.encoder\.visn_fc\.box_fc", "regions.box"),
        (r"^lxmert\.encoder\.visn_fc\.box_layer_norm", "regions.box_norm"),
        (r"^lxmert\.encoder\.layer\.(\d+)\.", r"word_encoder.blocks.\1."),
        (r"^lxmert\.encoder\.r_layers\.(\d+)\.", r"region_encoder.blocks.\1."),
        (r"^lxmert\.encoder\.x_layers\.(\d+)\.", r"cross_encoder.\1."),
        (r"visual_attention\.att\.([qkv])(uery|ey|alue)", r"cross.\1"),
        (r"visual_attention\.output\.dense", "cross.out"),
        (r"visual_attention\.output\.LayerNorm", "cross_norm"),
        (r"lang_self_att", "attention_a"),
        (r"visn_self_att", "attention_b"),
        (r"(attention_[ab])\.self\.([qkv])(uery|ey|alue)", r"\1.\2"),
        (r"(attention_[ab])\.output\.dense", r"\1.out"),
        (r"attention_([ab])\.output\.LayerNorm", r"attention_norm_\1"),
        (r"lang_inter\.dense", "feed_forward_a.up"),
        (r"visn_inter\.dense", "feed_forward_b.up"),
        (r"lang_output\.dense", "feed_forward_a.down"),
        (r"visn_output\.dense", "feed_forward_b.down"),
        (r"lang_output\.LayerNorm", "norm_a"),
        (r"visn_output\.LayerNorm", "norm_b"),
        *LAYER_NAMES,
        (r"^lxmert\.pooler", "pooler"),
        *HEAD_NAMES,
        (r"^obj_predict_head\.transform\.dense", "region_head.transform.0"),
        (r"^obj_predict_head\.transform\.LayerNorm", "region_head.transform.2"),
        (r"^obj_predict_head\.decoder_dict\.obj", "region_head.outputs.0"),
        (r"^obj_predict_head\.decoder_dict\.attr", "region_head.outputs.1"),
        (r"^obj_predict_head\.decoder_dict\.feat", "region_head.outputs.2"),
        (r"^answer_head\.logit_fc", "answer_head"),
    )

    def __init__(self, config: LxmertConfig) -> None:
        super().__init__()
        self.config = c = config
        block: dict[str, Any] = {"hidden": c.hidden, "dropout": c.dropout, "attention_dropout": c.dropout}
        block["eps"] = 1e-12
        self.words = WordEmbedding(c.vocabulary, c.length, c.dim, segments=2, norm=True, dropout=c.dropout)
        self.regions = RegionEmbedding(c.features, 4, c.dim)
        self.dropout = nn.Dropout(c.dropout)
        self.word_encoder = Transformer(c.dim, c.word_depth, c.heads, order="post", **block)
        self.region_encoder = Transformer(c.dim, c.region_depth, c.heads, order="post", **block)
        self.cross_encoder = nn.ModuleList(CrossModalityBlock(c.dim, c.heads, **block) for _ in range(c.cross_depth))
        self.pooler = Pooler(c.dim)
        self.word_head = WordHead(c.dim, self.words.word)
        self.region_head = RegionHead(c.dim, c.classes, c.attributes, c.features)
        self.match_head = nn.Linear(c.dim, 2)
        self.answer_head = AnswerHead(c.dim, c.answers) if c.answers else None

    def forward(self, regions: Tensor, boxes: Tensor, words: Tensor) -> RegionOutput:
        """[B, R, F], [B, R, 4] and int64 [B, T]"""
        mask = masks.key_lengths(lengths(words))
        text = self.word_encoder(self.words(words), mask=mask)
        seen = self.region_encoder(self.dropout(self.regions(regions, boxes) / 2))
        for block in self.cross_encoder:
            text, seen = block(text, seen, mask)
        return RegionOutput(text, seen, self.pooler(text))

    def pretrain(self, regions: Tensor, boxes: Tensor, words: Tensor) -> Tensor:
        """Of masked words and masked regions, where the sentence is the picture's own, and of whether it is."""
        words, match = mismatch(words)
        hidden, chosen = mask_words(words, self.config.vocabulary), choose_regions(regions)
        out = self(regions.masked_fill(chosen[:, :, None], 0), boxes, hidden.words)
        loss = masked_word_loss(self.word_head, out.words, only(hidden.targets, match))
        loss = loss + F.cross_entropy(self.match_head(out.pooled), match)
        shown = chosen & (match[:, None] == 1)
        labels = region_labels(regions[shown][None])
        kind, attribute, features = self.region_head(out.regions[shown])
        loss = (
            loss + F.cross_entropy(kind, labels.classes[0].argmax(1)) + F.cross_entropy(attribute, labels.attributes[0])
        )
        return loss + F.smooth_l1_loss(features, regions[shown])
