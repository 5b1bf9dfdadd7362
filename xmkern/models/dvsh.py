"""Deep visual-semantic hashing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.functional import bitwise_max_margin, cosine_max_margin
from xmkern.models.parts.cnn import ALEXNET, SMALL, Cnn, PictureEncoder
from xmkern.models.parts.recurrent import SentenceEncoder
from xmkern.models.parts.words import lengths
from xmkern.models.registry import register


@dataclass(frozen=True)
class DvshConfig:
    """AlexNet and an LSTM of LRCN's size; ``cosine_margin`` and ``bit_margin`` are the paper's mu_c and mu_b.

    ``bits_weight`` and ``hash_weight``: of the bitwise loss and of the hashing networks' distances.
    """

    picture: Cnn = ALEXNET
    vocabulary: int = 10_000
    word_dim: int = 1000
    hidden: int = 1000
    bits: int = 64
    cosine_margin: float = 0.5
    bit_margin: float = 0.5
    bits_weight: float = 0.1
    hash_weight: float = 1.0


class DvshOutput(NamedTuple):
    """Axes: ``B`` batch, ``K`` bits, of which these are the signs, in -1 to 1.

    Attributes:
        joint: [B, K], of pictures and words together.
        picture: [B, K], of pictures alone.
        text: [B, K], of words alone.
    """

    joint: Tensor
    picture: Tensor
    text: Tensor


@register(
    section="B",
    paper="Cao et al., Deep Visual-Semantic Hashing for Cross-Modal Retrieval, KDD 2016",
    tiny=DvshConfig(SMALL, 2048, 128, 128, 32, hash_weight=2.0),
    full=DvshConfig(),
    kernels=("similarity_reduce",),
)
class Dvsh(nn.Module):
    """Picture and sentence are fused at every word into one code, which each modality's own network learns to hash to.

    The joint codes of related things are to have a great cosine and bits far from 0, both by a margin.

    Axes: ``B`` batch, ``C`` texts, ``T`` words, ``K`` bits.
    """

    def __init__(self, config: DvshConfig) -> None:
        super().__init__()
        self.config = c = config
        self.cnn, self.sentence = self._encoders()
        self.fuse_picture, self.fuse_word = nn.Linear(self.cnn.dim, c.bits), nn.Linear(c.hidden, c.bits, bias=False)
        self.picture_hash, self.text_hash = self._encoders()
        self.picture_out, self.text_out = nn.Linear(self.cnn.dim, c.bits), nn.Linear(c.hidden, c.bits)

    def _encoders(self) -> tuple[PictureEncoder, SentenceEncoder]:
        c = self.config
        return PictureEncoder(c.picture), SentenceEncoder(c.vocabulary, c.word_dim, c.hidden)

    def joint_codes(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and int64 [B, T] -> [B, K], the mean over words of what each makes with the picture."""
        fused = self.fuse_picture(self.cnn(pictures))[:, None] + self.fuse_word(self.sentence(words).states)
        return _mean(fused.tanh(), words)

    def picture_codes(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, K]"""
        return self.picture_out(self.picture_hash(pictures)).tanh()

    def word_codes(self, words: Tensor) -> Tensor:
        """int64 [C, T] -> [C, K]"""
        return _mean(self.text_out(self.text_hash(words).states).tanh(), words)

    def forward(self, pictures: Tensor, words: Tensor) -> DvshOutput:
        """[B, 3, H, W] and int64 [B, T], of the same things."""
        return DvshOutput(self.joint_codes(pictures, words), self.picture_codes(pictures), self.word_codes(words))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Both margins of the joint codes, and the distances of the hashing networks from them.

        Of ``pictures`` [B, 3, H, W], ``words`` [B, T] and ``groups`` int64 [B]: equal where they are related.
        """
        out, c = self(batch["pictures"], batch["words"]), self.config
        cosine = cosine_max_margin(out.joint, out.joint, margin=c.cosine_margin, f_ids=batch["groups"])
        bits = bitwise_max_margin(out.joint, margin=c.bit_margin)
        distance = F.mse_loss(out.picture, out.joint) + F.mse_loss(out.text, out.joint)
        return cosine + c.bits_weight * bits + c.hash_weight * distance


def _mean(states: Tensor, words: Tensor) -> Tensor:
    """[B, T, K] -> [B, K], over the words that are there."""
    length = lengths(words)[:, None]
    there = torch.arange(words.shape[1], device=words.device) < length
    return (states * there[..., None]).sum(1) / length.clamp(min=1)  # 0 for a sentence without words
