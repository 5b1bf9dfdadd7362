"""Kiros et al.'s unifying visual-semantic embedding."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.functional import ranking_loss
from xmkern.models.parts.cnn import SMALL, VGG19, Cnn, PictureEncoder
from xmkern.models.parts.recurrent import SentenceEncoder
from xmkern.models.registry import register


@dataclass(frozen=True)
class UvseConfig:
    """The authors' code, on VGG-19; ``vocabulary`` is the data's."""

    picture: Cnn = VGG19
    vocabulary: int = 10_000
    word_dim: int = 300
    dim: int = 1024
    margin: float = 0.2


class UvseOutput(NamedTuple):
    """Axes: ``B`` pictures, ``C`` texts, ``D`` the common embedding.

    Attributes:
        picture: [B, D], of length 1.
        text: [C, D], of length 1.
    """

    picture: Tensor
    text: Tensor


@register(
    section="B",
    paper="Kiros et al., Unifying Visual-Semantic Embeddings with Multimodal Neural Language Models, 2014",
    tiny=UvseConfig(SMALL, 2048, 128, 128),
    full=UvseConfig(),
    kernels=("similarity_reduce",),
)
class Uvse(nn.Module):
    """The last state of an LSTM stands for a sentence; a picture ranks its own above all others by a margin.

    And a sentence its own picture. The picture's features are a CNN's, mapped to the common space linearly.

    Axes: ``B`` pictures, ``C`` texts, ``T`` words, ``D`` the common embedding.
    """

    def __init__(self, config: UvseConfig) -> None:
        super().__init__()
        self.config = c = config
        self.cnn = PictureEncoder(c.picture)
        self.picture_out = nn.Linear(self.cnn.dim, c.dim)
        self.sentence = SentenceEncoder(c.vocabulary, c.word_dim, c.dim)

    def encode_picture(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, D], of length 1"""
        return F.normalize(self.picture_out(self.cnn(pictures)), dim=-1)

    def encode_text(self, words: Tensor) -> Tensor:
        """int64 [C, T] -> [C, D], of length 1"""
        return F.normalize(self.sentence(words).last, dim=-1)

    def forward(self, pictures: Tensor, words: Tensor) -> UvseOutput:
        """[B, 3, H, W] and int64 [C, T]"""
        return UvseOutput(self.encode_picture(pictures), self.encode_text(words))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Hinge of all rivals, both ways; ``pictures`` [B, 3, H, W] and ``words`` [B, T] of equal ``ids`` are none."""
        out = self(batch["pictures"], batch["words"])
        return ranking_loss(out.picture, out.text, margin=self.config.margin, x_ids=batch["ids"])

    def similarity(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and int64 [C, T] -> cosines [B, C]"""
        return self.encode_picture(pictures) @ self.encode_text(words).T
