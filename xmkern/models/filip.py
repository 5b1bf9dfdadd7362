"""FILIP."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern import masks
from xmkern.functional import late_interaction_info_nce, max_similarity
from xmkern.models.parts.embeddings import PatchEmbedding, WordEmbedding
from xmkern.models.parts.encoder import Transformer
from xmkern.models.parts.words import there
from xmkern.models.registry import register


@dataclass(frozen=True)
class FilipConfig:
    """FILIP-base: ViT-B/32 and CLIP's text encoder, tokens of 256 numbers."""

    size: int = 224
    patch: int = 32
    vision_dim: int = 768
    vision_depth: int = 12
    vision_heads: int = 12
    vocabulary: int = 49408
    length: int = 77
    text_dim: int = 512
    text_depth: int = 12
    text_heads: int = 8
    dim: int = 256


class FilipOutput(NamedTuple):
    """Axes: ``B`` pictures, ``P`` patches, ``C`` texts, ``T`` words, ``D`` the common embedding.

    Attributes:
        patches: [B, P, D], each of length 1.
        words: [C, T, D], each of length 1.
        there: bool [C, T], which words are no padding.
        logit_scale: the inverse temperature.
    """

    patches: Tensor
    words: Tensor
    there: Tensor
    logit_scale: Tensor


@register(
    section="D",
    paper="Yao et al., FILIP: Fine-grained Interactive Language-Image Pre-Training, ICLR 2022",
    tiny=FilipConfig(64, 8, 128, 3, 4, 2048, 16, 128, 2, 4, 64),
    full=FilipConfig(),
    kernels=("attention", "max_similarity"),
)
class Filip(nn.Module):
    """Two towers whose score is the mean, over a sample's tokens, of the best match among the other's tokens.

    A patch finds its word and a word its patch, with no attention between the towers, so that both can be stored.

    Axes: ``B`` pictures, ``P`` patches, ``C`` texts, ``T`` words, ``D`` the common embedding.
    """

    def __init__(self, config: FilipConfig) -> None:
        super().__init__()
        self.config = c = config
        self.patches = PatchEmbedding(c.size, c.patch, c.vision_dim, class_token=False)
        self.vision = Transformer(c.vision_dim, c.vision_depth, c.vision_heads)
        self.words = WordEmbedding(c.vocabulary, c.length, c.text_dim)
        self.text = Transformer(c.text_dim, c.text_depth, c.text_heads)
        self.vision_out = nn.Linear(c.vision_dim, c.dim, bias=False)
        self.text_out = nn.Linear(c.text_dim, c.dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_picture(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, P, D], each token of length 1"""
        return F.normalize(self.vision_out(self.vision(self.patches(pictures))), dim=-1)

    def encode_text(self, words: Tensor) -> Tensor:
        """int64 [C, T] -> [C, T, D], each token of length 1, from the words up to it"""
        return F.normalize(self.text_out(self.text(self.words(words), mask=masks.causal())), dim=-1)

    def forward(self, pictures: Tensor, words: Tensor) -> FilipOutput:
        """[B, 3, H, W] and int64 [C, T]"""
        return FilipOutput(self.encode_picture(pictures), self.encode_text(words), there(words), self.logit_scale.exp())

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """InfoNCE of the scores both ways; of ``pictures`` of equal ``ids`` the first stays, with its ``words``."""
        ids = batch["ids"]
        first = (ids[:, None] == ids).int().argmax(1) == torch.arange(len(ids), device=ids.device)
        out = self(batch["pictures"][first], batch["words"][first])
        scale = out.logit_scale.clamp(max=100)
        return late_interaction_info_nce(out.patches, out.words, scale, y_mask=out.there)

    def similarity(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and int64 [C, T] -> the mean of both directions' scores, [B, C]"""
        out = self(pictures, words)
        of_patches, of_words = max_similarity(out.patches, out.words, y_mask=out.there, both=True)
        return (of_patches + of_words) / 2
