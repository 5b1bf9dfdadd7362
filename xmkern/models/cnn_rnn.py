"""CNN-RNN."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.models.parts.convolutions import VGG16, Vgg
from xmkern.models.parts.generation import Reader, next_word_loss
from xmkern.models.registry import register


@dataclass(frozen=True)
class CnnRnnConfig:
    """VGG-16 with its two wide layers; ``wide``: their width, 0 for a mean over the map instead."""

    size: int = 224
    stages: tuple[tuple[int, ...], ...] = VGG16
    wide: int = 4096
    norm: bool = False
    vocabulary: int = 10000
    dim: int = 64
    hidden: int = 512
    dropout: float = 0.5


class CnnRnnOutput(NamedTuple):
    """Axes: ``B`` batch, ``T`` words, ``H`` hidden, ``V`` vocabulary.

    Attributes:
        hidden: [B, T, H], of the recurrent layer.
        logits: [B, T, V], of the word after each.
    """

    hidden: Tensor
    logits: Tensor


@register(
    section="F",
    paper="Wang et al., CNN-RNN: A Unified Framework for Multi-label Image Classification, CVPR 2016",
    tiny=CnnRnnConfig(64, ((32,), (64,), (128,), (128,)), 0, True, 2048, 128, 256, 0.2),
    full=CnnRnnConfig(),
)
class CnnRnn(nn.Module):
    """A convolutional network sees, a recurrent one speaks; they meet in the space of the words, at every word.

    As encoder and decoder of Cho et al. (2014), but that the picture stands beside each state instead of being the
    first. x_t = relu(W o_t + U picture), and the logits are the words' own embeddings times x_t.

    Axes: ``B`` batch, ``T`` words, ``E`` the embedding, ``V`` vocabulary.
    """

    def __init__(self, config: CnnRnnConfig) -> None:
        super().__init__()
        self.config = c = config
        self.vision = Vgg(c.stages, norm=c.norm)
        places = (c.size // self.vision.shrink) ** 2
        self.wide = (
            nn.Sequential(
                nn.Flatten(), nn.Linear(self.vision.width * places, c.wide), nn.ReLU(), nn.Dropout(c.dropout),
                nn.Linear(c.wide, c.wide), nn.ReLU(), nn.Dropout(c.dropout),
            )
            if c.wide
            else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        )  # fmt: skip
        self.words = nn.Embedding(c.vocabulary, c.dim)
        self.recurrent = nn.LSTM(c.dim, c.hidden, batch_first=True)
        self.of_picture = nn.Linear(c.wide or self.vision.width, c.dim)
        self.of_state = nn.Linear(c.hidden, c.dim, bias=False)
        self.dropout = nn.Dropout(c.dropout)
        self.bias = nn.Parameter(torch.zeros(c.vocabulary))

    def encode(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, E]"""
        return self.of_picture(self.wide(self.vision(pictures)))

    def _logits(self, hidden: Tensor, seen: Tensor) -> Tensor:
        return F.linear(self.dropout(F.relu(self.of_state(hidden) + seen)), self.words.weight, self.bias)

    def forward(self, pictures: Tensor, words: Tensor) -> CnnRnnOutput:
        """[B, 3, H, W] and int64 [B, T]"""
        hidden, _ = self.recurrent(self.dropout(self.words(words)))
        return CnnRnnOutput(hidden, self._logits(hidden, self.encode(pictures)[:, None]))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross entropy of each next word of ``words`` int64 [B, T], for ``pictures`` [B, 3, H, W]."""
        return next_word_loss(self(batch["pictures"], batch["words"]).logits, batch["words"])

    def reader(self, pictures: Tensor) -> Reader:
        """What has seen [B, 3, H, W] and stands before the words."""
        zeros = pictures.new_zeros(len(pictures), self.config.hidden)

        def read(words: Tensor, state: dict[str, Any]) -> Tensor:
            hidden, (h, c) = self.recurrent(self.words(words), (state["h"][None], state["c"][None]))
            state |= {"h": h[0], "c": c[0]}
            return self._logits(hidden[:, -1], state["seen"])

        return Reader(read, {"seen": self.encode(pictures), "h": zeros, "c": zeros})
