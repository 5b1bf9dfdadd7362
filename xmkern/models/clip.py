"""CLIP."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern import masks
from xmkern.data.words import END
from xmkern.functional import multi_positive_info_nce
from xmkern.models.parts.embeddings import PatchEmbedding, WordEmbedding
from xmkern.models.parts.encoder import Transformer
from xmkern.models.parts.reference_names import CLIP_NAMES
from xmkern.models.registry import register


@dataclass(frozen=True)
class ClipConfig:
    """ViT-B/32."""

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
    dim: int = 512
    end: int = 49407
    activation: str = "quick_gelu"


class ClipOutput(NamedTuple):
    """Axes: ``B`` pictures, ``C`` texts, ``D`` the common embedding.

    Attributes:
        picture: [B, D], of length 1.
        text: [C, D], of length 1.
        logit_scale: the inverse temperature.
    """

    picture: Tensor
    text: Tensor
    logit_scale: Tensor


@register(
    section="D",
    paper="Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021",
    tiny=ClipConfig(64, 8, 128, 3, 4, 2048, 16, 128, 2, 4, 128, END),
    full=ClipConfig(),
    kernels=("attention", "similarity_loss"),
    parity="transformers.CLIPModel",
    parameters=151_277_313,
)
class Clip(nn.Module):
    """Two towers, symmetric InfoNCE, learnt temperature.

    A vision transformer and a causal text transformer, each projected to one space; a picture is told from all others
    of the batch by its text, and a text by its picture.

    Axes: ``B`` pictures, ``C`` texts, ``T`` words, ``D`` the common embedding.
    """

    reference_names = (
        *CLIP_NAMES,
        (r"^text_model\.embeddings\.token_embedding", "words.word"),
        (r"^text_model\.embeddings\.position_embedding", "words.place"),
        (r"^text_model\.final_layer_norm", "text.norm"),
        (r"^visual_projection", "vision_out"),
        (r"^text_projection", "text_out"),
    )

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = c = config
        self.patches = PatchEmbedding(c.size, c.patch, c.vision_dim, bias=False)
        self.before = nn.LayerNorm(c.vision_dim)
        self.vision = Transformer(c.vision_dim, c.vision_depth, c.vision_heads, activation=c.activation)
        self.words = WordEmbedding(c.vocabulary, c.length, c.text_dim)
        self.text = Transformer(c.text_dim, c.text_depth, c.text_heads, activation=c.activation)
        self.vision_out = nn.Linear(c.vision_dim, c.dim, bias=False)
        self.text_out = nn.Linear(c.text_dim, c.dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_picture(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, D], of length 1"""
        x = self.vision(self.before(self.patches(pictures)))
        return F.normalize(self.vision_out(x[:, 0]), dim=-1)

    def encode_text(self, words: Tensor) -> Tensor:
        """int64 [C, T] -> [C, D], of length 1, from what stands at the end of each text."""
        x = self.text(self.words(words), mask=masks.causal())
        end = (words == self.config.end).int().argmax(1)
        return F.normalize(self.text_out(x[torch.arange(len(x), device=x.device), end]), dim=-1)

    def forward(self, pictures: Tensor, words: Tensor) -> ClipOutput:
        """[B, 3, H, W] and int64 [C, T], of which each holds ``config.end``."""
        return ClipOutput(self.encode_picture(pictures), self.encode_text(words), self.logit_scale.exp())

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Symmetric InfoNCE of ``pictures`` [B, 3, H, W] and ``words`` [B, T]; pictures of equal ``ids`` are one."""
        out = self(batch["pictures"], batch["words"])
        return multi_positive_info_nce(out.picture, out.text, out.logit_scale.clamp(max=100), x_ids=batch["ids"])

    def similarity(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and int64 [C, T] -> cosines [B, C]"""
        return self.encode_picture(pictures) @ self.encode_text(words).T
