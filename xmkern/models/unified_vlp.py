"""Unified VLP."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xmkern import masks
from xmkern.data.words import BEGIN, MASK, PAD, SPECIAL
from xmkern.models.parts.embeddings import WordEmbedding
from xmkern.models.parts.encoder import Transformer
from xmkern.models.parts.generation import Reader
from xmkern.models.parts.regions import FEATURES, grid_regions
from xmkern.models.parts.words import IGNORED, Masked, WordHead, lengths, word_loss
from xmkern.models.registry import register
from xmkern.nn import KeyValueCache


@dataclass(frozen=True)
class UnifiedVlpConfig:
    """BERT-base, cased; ``box``: numbers that say where a region lies, and what a detector takes it for.

    ``masked``: the share of words that are hidden; ``forward_share``: of sentences that are read left to right.
    """

    vocabulary: int = 28996
    length: int = 512
    features: int = 2048
    box: int = 6 + 1601
    region_hidden: int = 2048
    dim: int = 768
    depth: int = 12
    heads: int = 12
    dropout: float = 0.1
    masked: float = 0.15
    forward_share: float = 0.75


class UnifiedVlpOutput(NamedTuple):
    """Axes: ``B`` batch, ``R`` regions, ``T`` words, ``E`` the embedding, ``V`` vocabulary.

    Attributes:
        regions: [B, R, E].
        words: [B, T, E].
        logits: [B, T, V], of the word that stands at each place.
    """

    regions: Tensor
    words: Tensor
    logits: Tensor


@register(
    section="E",
    paper="Zhou et al., Unified Vision-Language Pre-Training for Image Captioning and VQA, AAAI 2020",
    tiny=UnifiedVlpConfig(2048, 32, FEATURES, 4, 256, 128, 3, 4, 0.1, 0.4),
    full=UnifiedVlpConfig(),
    kernels=("attention", "add_norm"),
    parameters=115_345_732,
)
class UnifiedVlp(nn.Module):
    """One network reads both ways or writes left to right, by its mask alone, sentence for sentence.

    Both ways a word sees all regions and words; left to right all regions and the words before it. Words are always
    predicted where they are hidden: to write, a hidden word is put behind what is written.

    Axes: ``B`` batch, ``R`` regions, ``F`` their features, ``G`` numbers of a box, ``T`` words, ``E`` the embedding.
    """

    def __init__(self, config: UnifiedVlpConfig) -> None:
        super().__init__()
        self.config = c = config
        self.feature = nn.Sequential(
            nn.Linear(c.features, c.region_hidden), nn.ReLU(), nn.Linear(c.region_hidden, c.dim), nn.ReLU()
        )
        self.box = nn.Sequential(nn.Linear(c.box, c.dim), nn.ReLU())
        self.words = WordEmbedding(c.vocabulary, c.length, c.dim, segments=2, norm=True, dropout=c.dropout)
        self.encoder = Transformer(c.dim, c.depth, c.heads, order="post", dropout=c.dropout, eps=1e-12)
        self.word_head = WordHead(c.dim, self.words.word)

    def embed_regions(self, features: Tensor, boxes: Tensor) -> Tensor:
        """[B, R, F] and [B, R, G] -> [B, R, E], normed as words are."""
        assert self.words.segment is not None
        return self.words.norm(self.feature(features) + self.box(boxes) + self.words.segment.weight[1])

    def forward(self, regions: tuple[Tensor, Tensor], words: Tensor, forward: Tensor) -> UnifiedVlpOutput:
        """Args:
        regions: features [B, R, F] and boxes [B, R, G].
        words: int64 [B, T].
        forward: bool [B], which sentences are read left to right.
        """
        seen = self.embed_regions(*regions)
        count = seen.shape[1]
        mask = masks.prefix(count + lengths(words).masked_fill(forward, 0))
        x = self.encoder(torch.cat([seen, self.words(words)], 1), mask=mask)
        return UnifiedVlpOutput(x[:, :count], x[:, count:], self.word_head(x[:, count:]))

    def hide(self, words: Tensor) -> Masked:
        """As BERT's masking, but that the end may be hidden too, so that the network learns to end."""
        chance = torch.rand(words.shape, device=words.device).masked_fill((words == PAD) | (words == BEGIN), 2)
        hidden = (chance < self.config.masked) | ((chance == chance.amin(1, keepdim=True)) & (chance < 1))
        fate = torch.rand(words.shape, device=words.device)
        other = torch.randint_like(words, SPECIAL, self.config.vocabulary)
        shown = torch.where(hidden & (fate < 0.8), MASK, torch.where(hidden & (fate > 0.9), other, words))
        return Masked(shown, words.masked_fill(~hidden, IGNORED))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross entropy of hidden words of ``words`` int64 [B, T], beside ``pictures`` [B, 3, H, W]."""
        hidden = self.hide(batch["words"])
        forward = torch.rand(len(hidden.words), device=hidden.words.device) < self.config.forward_share
        return word_loss(self(grid_regions(batch["pictures"]), hidden.words, forward).logits, hidden.targets)

    def reader(self, pictures: Tensor) -> Reader:
        """What has seen [B, 3, H, W] and stands before the words."""
        caches = [KeyValueCache() for _ in range(self.config.depth)]
        seen = self.embed_regions(*grid_regions(pictures))
        self.encoder(seen, caches=caches)
        count = seen.shape[1]

        def read(words: Tensor, state: dict[str, Any]) -> Tensor:
            start = state["caches"][0].length
            asked = torch.cat([words, words.new_full((len(words), 1), MASK)], 1)
            x = self.words(asked, start=start - count)
            x = self.encoder(x, mask=masks.causal(start), caches=state["caches"])
            for cache in state["caches"]:
                cache.length -= 1  # the hidden word is forgotten: what comes stands in its place
            return self.word_head(x[:, -1])

        return Reader(read, {"caches": caches})
