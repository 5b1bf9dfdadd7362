"""GIT."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xmkern import masks
from xmkern.models.parts.embeddings import PatchEmbedding, WordEmbedding
from xmkern.models.parts.encoder import Transformer
from xmkern.models.parts.generation import Reader, next_word_loss
from xmkern.models.parts.reference_names import CLIP_NAMES, LAYER_NAMES
from xmkern.models.registry import register
from xmkern.nn import KeyValueCache


@dataclass(frozen=True)
class GitConfig:
    """The base size, with a ViT-B/16."""

    size: int = 224
    patch: int = 16
    vision_dim: int = 768
    vision_depth: int = 12
    vision_heads: int = 12
    vocabulary: int = 30522
    length: int = 1024
    dim: int = 768
    depth: int = 6
    heads: int = 12
    dropout: float = 0.0


class GitOutput(NamedTuple):
    """Axes: ``B`` batch, ``P`` patches and the class token before them, ``T`` words, ``E`` embedding, ``V`` vocabulary.

    Attributes:
        patches: [B, P, E].
        words: [B, T, E].
        logits: [B, T, V], of the word after each.
    """

    patches: Tensor
    words: Tensor
    logits: Tensor


@register(
    section="E",
    paper="Wang et al., GIT: A Generative Image-to-text Transformer for Vision and Language, TMLR 2022",
    tiny=GitConfig(64, 16, 128, 3, 4, 2048, 16, 128, 2, 4, 0.1),
    full=GitConfig(),
    kernels=("attention",),
    parity="transformers.GitForCausalLM",
    parameters=176_619_066,
)
class Git(nn.Module):
    """Patches that see each other and words that see all patches and the words before them, in one decoder.

    Axes: ``B`` batch, ``T`` words, ``V`` vocabulary.
    """

    reference_names = (
        (r"^git\.", ""),
        (r"^.*position_ids$|^img_temporal_embedding.*$", ""),
        (r"^embeddings\.word_embeddings", "words.word"),
        (r"^embeddings\.position_embeddings", "words.place"),
        (r"^embeddings\.LayerNorm", "words.norm"),
        (r"^image_encoder\.vision_model\.", "vision_model."),
        *CLIP_NAMES,
        (r"^visual_projection\.visual_projection\.0", "project"),
        (r"^visual_projection\.visual_projection\.1", "project_norm"),
        (r"^encoder\.layer\.(\d+)", r"decoder.blocks.\1"),
        *LAYER_NAMES,
        (r"^output\.", "out."),
    )

    def __init__(self, config: GitConfig) -> None:
        super().__init__()
        self.config = c = config
        self.patches = PatchEmbedding(c.size, c.patch, c.vision_dim, bias=False)
        self.before = nn.LayerNorm(c.vision_dim)
        self.vision = Transformer(
            c.vision_dim, c.vision_depth, c.vision_heads, activation="quick_gelu", dropout=c.dropout
        )
        self.project, self.project_norm = nn.Linear(c.vision_dim, c.dim), nn.LayerNorm(c.dim)
        self.words = WordEmbedding(c.vocabulary, c.length, c.dim, norm=True, dropout=c.dropout)
        self.decoder = Transformer(c.dim, c.depth, c.heads, order="post", dropout=c.dropout, eps=1e-12)
        self.out = nn.Linear(c.dim, c.vocabulary)

    def encode(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, P, E]"""
        return self.project_norm(self.project(self.vision(self.before(self.patches(pictures)))))

    def forward(self, pictures: Tensor, words: Tensor) -> GitOutput:
        """[B, 3, H, W] and int64 [B, T]"""
        patches = self.encode(pictures)
        count = patches.shape[1]
        mask = masks.prefix(torch.full((len(words),), count, device=words.device))
        x = self.decoder(torch.cat([patches, self.words(words)], 1), mask=mask)
        return GitOutput(x[:, :count], x[:, count:], self.out(x[:, count:]))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross entropy of each next word of ``words`` int64 [B, T], after ``pictures`` [B, 3, H, W]."""
        return next_word_loss(self(batch["pictures"], batch["words"]).logits, batch["words"])

    def reader(self, pictures: Tensor) -> Reader:
        """What has seen [B, 3, H, W] and stands before the words."""
        caches = [KeyValueCache() for _ in range(self.config.depth)]
        patches = self.encode(pictures)
        self.decoder(patches, caches=caches)
        count = patches.shape[1]

        def read(words: Tensor, state: dict[str, Any]) -> Tensor:
            start = state["caches"][0].length
            x = self.words(words, start=start - count)
            return self.out(self.decoder(x, mask=masks.causal(start), caches=state["caches"])[:, -1])

        return Reader(read, {"caches": caches})
