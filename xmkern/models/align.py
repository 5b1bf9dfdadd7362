"""ALIGN."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern import masks
from xmkern.functional import multi_positive_info_nce
from xmkern.models.parts.efficientnet import EfficientNet
from xmkern.models.parts.embeddings import WordEmbedding
from xmkern.models.parts.encoder import Transformer
from xmkern.models.parts.reference_names import LAYER_NAMES
from xmkern.models.parts.words import lengths
from xmkern.models.registry import register


@dataclass(frozen=True)
class AlignConfig:
    """EfficientNet-B7 and BERT-base, as published with weights; its last channels are the common embedding.

    ``width`` and ``depth``: factors of EfficientNet-B0; ``temperature``: which is learnt, at the start.
    """

    width: float = 2.0
    depth: float = 3.1
    picture_dropout: float = 0.2
    vocabulary: int = 30522
    length: int = 512
    dim: int = 768
    text_depth: int = 12
    heads: int = 12
    hidden: int = 3072
    dropout: float = 0.1
    temperature: float = 1.0


class AlignOutput(NamedTuple):
    """Axes: ``B`` pictures, ``C`` texts, ``D`` the common embedding.

    Attributes:
        picture: [B, D], of length 1.
        text: [C, D], of length 1.
        temperature: by which cosines are divided.
    """

    picture: Tensor
    text: Tensor
    temperature: Tensor


@register(
    section="D",
    paper="Jia et al., Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision, "
    "ICML 2021",
    tiny=AlignConfig(0.5, 0.5, 0.0, 2048, 16, 128, 2, 4, 512, 0.0, 0.1),
    full=AlignConfig(),
    kernels=("attention", "similarity_loss"),
    parity="transformers.AlignModel",
    parameters=172_117_841,  # of the parity class
)
class Align(nn.Module):
    """A convolutional network and BERT, plain InfoNCE: noise in the pairs is outweighed by their number.

    Pictures are EfficientNet's features, averaged over the places; texts BERT's first token, projected to as many
    numbers.

    Axes: ``B`` pictures, ``C`` texts, ``T`` words, ``D`` the common embedding.
    """

    reference_names = (
        (r"^.*position_ids$|^text_model\.pooler.*", ""),
        (r"^text_model\.embeddings\.word_embeddings", "words.word"),
        (r"^text_model\.embeddings\.position_embeddings", "words.place"),
        (r"^text_model\.embeddings\.token_type_embeddings", "words.segment"),
        (r"^text_model\.embeddings\.LayerNorm", "words.norm"),
        (r"^text_model\.encoder\.layer\.(\d+)\.", r"text.blocks.\1."),
        *LAYER_NAMES,
        (r"^text_projection", "text_out"),
        (r"^vision_model\.embeddings\.convolution", "vision.stem.0"),
        (r"^vision_model\.embeddings\.batchnorm", "vision.stem.1"),
        (r"^vision_model\.encoder\.blocks", "vision.blocks"),
        (r"expansion\.expand_conv", "expand.0"),
        (r"expansion\.expand_bn", "expand.1"),
        (r"depthwise_conv\.depthwise_conv", "depthwise.0"),
        (r"depthwise_conv\.depthwise_norm", "depthwise.1"),
        (r"squeeze_excite\.reduce", "reduce"),
        (r"squeeze_excite\.expand", "excite"),
        (r"projection\.project_conv", "project.0"),
        (r"projection\.project_bn", "project.1"),
    )

    def __init__(self, config: AlignConfig) -> None:
        super().__init__()
        self.config = c = config
        self.vision = EfficientNet(c.width, c.depth, dropout=c.picture_dropout)
        self.words = WordEmbedding(c.vocabulary, c.length, c.dim, segments=2, norm=True, dropout=c.dropout)
        self.text = Transformer(
            c.dim, c.text_depth, c.heads, order="post", hidden=c.hidden, dropout=c.dropout,
            attention_dropout=c.dropout, eps=1e-12,
        )  # fmt: skip
        self.text_out = nn.Linear(c.dim, self.vision.channels)
        self.temperature = nn.Parameter(torch.tensor(c.temperature))

    def encode_picture(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, D], of length 1"""
        return F.normalize(self.vision(pictures).mean((2, 3)), dim=-1)

    def encode_text(self, words: Tensor) -> Tensor:
        """int64 [C, T] -> [C, D], of length 1"""
        x = self.text(self.words(words), mask=masks.key_lengths(lengths(words)))
        return F.normalize(self.text_out(x[:, 0]), dim=-1)

    def forward(self, pictures: Tensor, words: Tensor) -> AlignOutput:
        """[B, 3, H, W], sides multiples of 32, and int64 [C, T]"""
        return AlignOutput(self.encode_picture(pictures), self.encode_text(words), self.temperature)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Symmetric InfoNCE of ``pictures`` [B, 3, H, W] and ``words`` [B, T]; pictures of equal ``ids`` are one."""
        out = self(batch["pictures"], batch["words"])
        scale = 1 / out.temperature.clamp(min=0.01)
        return multi_positive_info_nce(out.picture, out.text, scale, x_ids=batch["ids"])

    def similarity(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and int64 [C, T] -> cosines [B, C]"""
        return self.encode_picture(pictures) @ self.encode_text(words).T
