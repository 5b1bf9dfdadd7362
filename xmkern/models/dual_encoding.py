"""Dual Encoding."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.functional import ranking_loss
from xmkern.models.parts.cnn import SMALL, Cnn, PictureEncoder
from xmkern.models.parts.features import bag_of_words
from xmkern.models.parts.recurrent import SequenceEncoder
from xmkern.models.parts.words import lengths
from xmkern.models.registry import register


@dataclass(frozen=True)
class DualEncodingConfig:
    """The authors' code for MSR-VTT, on frames' features of a ResNet-152; ``vocabulary`` is the data's.

    With ``picture`` a CNN is learnt along, and the places of its map are the frames.
    """

    frame_dim: int = 2048
    frame_hidden: int = 1024
    frame_widths: tuple[int, ...] = (2, 3, 4, 5)
    vocabulary: int = 8192
    word_dim: int = 500
    word_hidden: int = 512
    word_widths: tuple[int, ...] = (2, 3, 4)
    kernels: int = 512
    dim: int = 2048
    dropout: float = 0.2
    margin: float = 0.2
    picture: Cnn | None = None


class DualEncodingOutput(NamedTuple):
    """Axes: ``B`` videos, ``C`` texts, ``D`` the common embedding.

    Attributes:
        video: [B, D], of length 1.
        text: [C, D], of length 1.
    """

    video: Tensor
    text: Tensor


class LevelEncoder(nn.Module):
    """A sequence on three levels, joined and mapped to the common space.

    The first, of the whole, is given; the second is the mean of a bidirectional GRU's states; the third, of what lies
    side by side, the maxima of 1-d convolutions of several widths over them.

    Axes: ``B`` batch, ``T`` the sequence, ``E`` its features (``dim``), ``W`` the first level (``whole``), ``D``.
    """

    def __init__(
        self, dim: int, hidden: int, widths: tuple[int, ...], kernels: int, whole: int, out: int, dropout: float
    ) -> None:
        super().__init__()
        self.sequence = SequenceEncoder(dim, hidden, cell="gru", bidirectional=True)
        states = self.sequence.dim
        self.convolutions = nn.ModuleList(nn.Conv1d(states, kernels, width, padding=width - 1) for width in widths)
        self.out = nn.Linear(whole + states + kernels * len(widths), out)
        self.norm = nn.BatchNorm1d(out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, counts: Tensor, whole: Tensor) -> Tensor:
        """[B, T, E], of which ``counts`` int64 [B] are there, and [B, W] -> [B, D], of length 1"""
        states = self.sequence(x, counts).states
        mean = states.sum(1) / counts[:, None]
        beside = [self._beside(states, counts, convolution) for convolution in self.convolutions]
        levels = torch.cat([self.dropout(mean), self.dropout(torch.cat(beside, 1)), whole], 1)
        return F.normalize(self.dropout(self.norm(self.out(levels))), dim=-1)

    @staticmethod
    def _beside(states: Tensor, counts: Tensor, convolution: nn.Module) -> Tensor:
        """[B, T, H] -> [B, kernels], the maxima over windows that see the sequence: behind it only the bias answers."""
        found = convolution(states.mT).relu()
        windows = torch.arange(found.shape[2], device=found.device)
        width = found.shape[2] - states.shape[1] + 1
        return found.masked_fill((windows >= counts[:, None] + width - 1)[:, None], 0).amax(2)


@register(
    section="B",
    paper="Dong et al., Dual Encoding for Zero-Example Video Retrieval, CVPR 2019",
    tiny=DualEncodingConfig(128, 64, (2, 3, 4, 5), 2048, 128, 64, (2, 3, 4), 64, 256, picture=SMALL),
    full=DualEncodingConfig(),
    kernels=("similarity_reduce",),
)
class DualEncoding(nn.Module):
    """Video and sentence are encoded alike: whole, in order, and by what lies side by side.

    A mean (of a sentence: its bag of words), a bidirectional GRU, and 1-d convolutions of several widths over its
    states. A video ranks its sentence above the hardest other of the batch by a margin, and a sentence its video.

    Axes: ``B`` videos, ``N`` frames, ``F`` a frame's features, ``C`` texts, ``T`` words, ``D`` the common embedding.
    """

    def __init__(self, config: DualEncodingConfig) -> None:
        super().__init__()
        self.config = c = config
        self.cnn = PictureEncoder(c.picture) if c.picture else None
        self.word = nn.Embedding(c.vocabulary, c.word_dim)
        self.video = LevelEncoder(c.frame_dim, c.frame_hidden, c.frame_widths, c.kernels, c.frame_dim, c.dim, c.dropout)
        self.text = LevelEncoder(c.word_dim, c.word_hidden, c.word_widths, c.kernels, c.vocabulary, c.dim, c.dropout)

    def encode_video(self, frames: Tensor) -> Tensor:
        """[B, N, F] -> [B, D], of length 1"""
        counts = frames.new_full((len(frames),), frames.shape[1], dtype=torch.int64)
        return self.video(frames, counts, frames.mean(1))

    def encode_text(self, words: Tensor) -> Tensor:
        """int64 [C, T] -> [C, D], of length 1"""
        counts = lengths(words).clamp(min=1)  # of an empty sentence one place of padding is read
        return self.text(self.word(words), counts, bag_of_words(words, self.config.vocabulary))

    def forward(self, frames: Tensor, words: Tensor) -> DualEncodingOutput:
        """[B, N, F] and int64 [C, T]"""
        return DualEncodingOutput(self.encode_video(frames), self.encode_text(words))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Hinge of the hardest rival; ``pictures`` [B, 3, H, W] and ``words`` [B, T] of equal ``ids`` are none."""
        out = self(self.places(batch["pictures"]), batch["words"])
        return ranking_loss(out.video, out.text, margin=self.config.margin, mode="hardest", x_ids=batch["ids"])

    def similarity(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and int64 [C, T] -> cosines [B, C]"""
        return self.encode_video(self.places(pictures)) @ self.encode_text(words).T

    def places(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, N, F], the places of the CNN's map for frames.

        Raises:
            ValueError: the configuration has no CNN.
        """
        if self.cnn is None:
            raise ValueError("config.picture must be given for the model to read pictures")
        return self.cnn.places(pictures)
