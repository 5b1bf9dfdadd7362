"""COTS."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern import masks
from xmkern.functional import distillation, multi_positive_info_nce
from xmkern.models.parts.embeddings import PatchEmbedding, WordEmbedding
from xmkern.models.parts.encoder import Transformer
from xmkern.models.parts.region_tasks import COLOURS, choose_regions, region_labels
from xmkern.models.parts.words import WordHead, lengths, mask_words, masked_word_loss
from xmkern.models.registry import register


@dataclass(frozen=True)
class CotsConfig:
    """ViT-B/16 and BERT-base; ``codes``: how many visual tokens there are; ``queue``: pairs of batches before."""

    size: int = 384
    patch: int = 16
    codes: int = 8192
    vision_dim: int = 768
    vision_depth: int = 12
    vision_heads: int = 12
    vocabulary: int = 30522
    length: int = 80
    text_dim: int = 768
    text_depth: int = 12
    text_heads: int = 12
    dim: int = 256
    queue: int = 16384
    momentum: float = 0.99
    masked_patches: float = 0.4


class CotsOutput(NamedTuple):
    """Axes: ``B`` pictures, ``C`` texts, ``D`` the common embedding.

    Attributes:
        picture: [B, D], of length 1.
        text: [C, D], of length 1.
        logit_scale: the inverse temperature.
    """

    picture: Tensor
    text: Tensor
    logit_scale: Tensor


class PictureTower(nn.Module):
    """ViT, with a token for patches that are hidden. Axes: ``B`` batch, ``P`` patches, ``V`` tokens, ``D``."""

    def __init__(self, c: CotsConfig) -> None:
        super().__init__()
        self.patches = PatchEmbedding(c.size, c.patch, c.vision_dim)
        self.hidden = nn.Parameter(torch.randn(c.vision_dim) * 0.02)
        self.encoder = Transformer(c.vision_dim, c.vision_depth, c.vision_heads)
        self.out = nn.Linear(c.vision_dim, c.dim)

    def forward(self, pictures: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W], and which patches are not shown, bool [B, P] -> [B, D], of length 1, and [B, P, V]"""
        x = self.patches(pictures)
        if hidden is not None:
            place = self.patches.place
            x = torch.where(F.pad(hidden, (1, 0))[:, :, None], self.hidden + place, x)
        x = self.encoder(x)
        return F.normalize(self.out(x[:, 0]), dim=-1), x[:, 1:]


class TextTower(nn.Module):
    """BERT. Axes: ``C`` batch, ``T`` words, ``E`` their embedding, ``D`` the common one."""

    def __init__(self, c: CotsConfig) -> None:
        super().__init__()
        self.words = WordEmbedding(c.vocabulary, c.length, c.text_dim, norm=True)
        self.encoder = Transformer(c.text_dim, c.text_depth, c.text_heads, order="post", eps=1e-12)
        self.out = nn.Linear(c.text_dim, c.dim)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [C, T] -> [C, D], of length 1, and [C, T, E]"""
        x = self.encoder(self.words(words), mask=masks.key_lengths(lengths(words)))
        return F.normalize(self.out(x[:, 0]), dim=-1), x


@register(
    section="D",
    paper="Lu et al., COTS: Collaborative Two-Stream Vision-Language Pre-Training Model for Cross-Modal Retrieval, "
    "CVPR 2022",
    tiny=CotsConfig(64, 16, COLOURS, 128, 3, 4, 2048, 16, 128, 2, 4, 64, 512, 0.99, 0.4),
    full=CotsConfig(),
    kernels=("attention", "similarity_reduce", "similarity_divergence"),
)
class Cots(nn.Module):
    """Two towers that work together at three levels: masked tokens, pairs against a queue, and both retrieval tasks.

    A masked word is told from its sentence and the picture's embedding, a masked patch's visual token from its picture
    and the text's. Pairs are told from the batch and from those of earlier batches, encoded by towers that follow these
    slowly. What a picture finds among the texts and its text among the pictures are drawn together by their divergence.

    Visual tokens are the commonest of 27 colours in a patch, in place of a learnt tokenizer's codes.

    Axes: ``B`` pictures, ``C`` texts, ``T`` words, ``P`` patches, ``D`` the common embedding, ``Q`` the queue.
    """

    queued_pictures: Tensor
    queued_texts: Tensor
    queued_ids: Tensor

    def __init__(self, config: CotsConfig) -> None:
        super().__init__()
        self.config = c = config
        self.vision, self.text = PictureTower(c), TextTower(c)
        self.slow = copy.deepcopy(nn.ModuleList([self.vision, self.text])).requires_grad_(False)
        self.picture_to_words, self.text_to_patches = nn.Linear(c.dim, c.text_dim), nn.Linear(c.dim, c.vision_dim)
        self.word_head = WordHead(c.text_dim, self.text.words.word)
        self.code_head = nn.Sequential(nn.LayerNorm(c.vision_dim), nn.Linear(c.vision_dim, c.codes))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        # What no batch has filled belongs to nobody: its id is that of no picture.
        for name in ("queued_pictures", "queued_texts"):
            self.register_buffer(name, F.normalize(torch.randn(c.queue, c.dim), dim=1))
        self.register_buffer("queued_ids", torch.full((c.queue,), -1))

    def forward(self, pictures: Tensor, words: Tensor) -> CotsOutput:
        """[B, 3, H, W] and int64 [C, T]"""
        return CotsOutput(self.vision(pictures)[0], self.text(words)[0], self.logit_scale.exp())

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Of ``pictures`` [B, 3, H, W] and ``words`` int64 [B, T]; pictures of equal ``ids`` are one.

        In training the slow towers and the queue move on.
        """
        pictures, words, ids = batch["pictures"], batch["words"], batch["ids"]
        picture, text, scale = self(pictures, words)
        scale = scale.clamp(max=100)
        with torch.no_grad():
            if self.training:
                self._follow()
            picture_key, text_key = self.slow[0](pictures)[0], self.slow[1](words)[0]
        pictures_kept = torch.cat([picture_key, self.queued_pictures])
        texts_kept, ids_kept = torch.cat([text_key, self.queued_texts]), torch.cat([ids, self.queued_ids])
        loss = self._masked(pictures, words, picture, text)
        for x, kept, other, other_kept in (
            (picture, texts_kept, text, pictures_kept), (text, pictures_kept, picture, texts_kept),
        ):  # fmt: skip
            pairs = multi_positive_info_nce(x, kept, scale, x_ids=ids, y_ids=ids_kept, symmetric=False)
            tasks = distillation(x, kept, scale, other.detach(), other_kept, scale.detach(), symmetric=False)
            loss = loss + (pairs + tasks) / 2
        if self.training:
            self.queued_pictures, self.queued_texts, self.queued_ids = (
                kept[: self.config.queue] for kept in (pictures_kept, texts_kept, ids_kept)
            )
        return loss

    def _masked(self, pictures: Tensor, words: Tensor, picture: Tensor, text: Tensor) -> Tensor:
        """Of masked words given the picture [B, D] and of masked patches given the text [B, D]."""
        shown = mask_words(words, self.config.vocabulary)
        tokens = self.text(shown.words)[1] + self.picture_to_words(picture)[:, None]
        loss = masked_word_loss(self.word_head, tokens, shown.targets)
        patches = F.unfold(pictures, self.config.patch, stride=self.config.patch).mT
        hidden = choose_regions(patches, self.config.masked_patches)
        found = self.vision(pictures, hidden)[1] + self.text_to_patches(text)[:, None]
        codes = region_labels(patches).classes.argmax(2)
        return loss + F.cross_entropy(self.code_head(found[hidden]), codes[hidden])

    @torch.no_grad()
    def _follow(self) -> None:
        fast = nn.ModuleList([self.vision, self.text]).parameters()
        for slow, quick in zip(self.slow.parameters(), fast, strict=True):
            slow.lerp_(quick, 1 - self.config.momentum)

    def similarity(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and int64 [C, T] -> cosines [B, C]"""
        return self.vision(pictures)[0] @ self.text(words)[0].T
