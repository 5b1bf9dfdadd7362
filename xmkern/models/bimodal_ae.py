"""Bimodal deep autoencoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.models.parts.features import bag_of_words, thumbnail
from xmkern.models.registry import register


@dataclass(frozen=True)
class BimodalAeConfig:
    """``hidden``: of each modality's own layers; ``shared``: of the layer that joins them."""

    side: int = 32
    vocabulary: int = 2048
    hidden: tuple[int, ...] = (1536, 1536)
    shared: int = 1536
    dropout: float = 0.0


class BimodalAeOutput(NamedTuple):
    """Axes: ``B`` batch, ``S`` shared units, ``F`` numbers of a thumbnail, ``V`` vocabulary.

    Attributes:
        shared: [B, S].
        picture: [B, F], rebuilt, -1 to 1.
        text: logits of whether a word is there [B, V].
    """

    shared: Tensor
    picture: Tensor
    text: Tensor


@register(
    section="A",
    paper="Ngiam et al., Multimodal Deep Learning, ICML 2011",
    tiny=BimodalAeConfig(8, 2048, (256,), 128, 0.2),
    full=BimodalAeConfig(),
)
class BimodalAe(nn.Module):
    """Two encoders meet in a shared layer that is to rebuild both modalities, also where it has seen one of them.

    A third of a batch is seen without its picture and a third without its words (zeros stand for them).

    Axes: ``B`` batch, ``T`` words.
    """

    def __init__(self, config: BimodalAeConfig) -> None:
        super().__init__()
        self.config = c = config
        picture, text = (3 * c.side**2, *c.hidden), (c.vocabulary, *c.hidden)
        self.picture_in, self.text_in = _layers(*picture), _layers(*text)
        self.join = nn.Sequential(nn.Linear(2 * c.hidden[-1], c.shared), nn.Sigmoid(), nn.Dropout(c.dropout))
        self.picture_out, self.text_out = (_layers(c.shared, *reversed(widths))[:-1] for widths in (picture, text))

    def forward(self, pictures: Tensor | None, words: Tensor | None, there: Tensor | None = None) -> BimodalAeOutput:
        """[B, 3, H, W] and int64 [B, T], either of which may be missing.

        ``there``: bool [B, 2], whether a sample's picture and its words are seen; all that is given if None.
        """
        codes = (
            None if pictures is None else self.picture_in(thumbnail(pictures, self.config.side)),
            None if words is None else self.text_in(self._said(words)),
        )
        some = next((code for code in codes if code is not None), None)
        if some is None:
            raise ValueError("pictures and words are both None: one of them must be given")
        picture, text = (torch.zeros_like(some) if code is None else code for code in codes)
        if there is not None:
            picture, text = picture * there[:, :1], text * there[:, 1:]
        shared = self.join(torch.cat([picture, text], 1))
        return BimodalAeOutput(shared, self.picture_out(shared).tanh(), self.text_out(shared))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Squared errors of ``pictures`` [B, 3, H, W] and cross entropies of ``words`` [B, T], of each sample's sum."""
        pictures, words = batch["pictures"], batch["words"]
        fate = torch.arange(len(words), device=words.device) % 3
        out = self(pictures, words, torch.stack([fate != 0, fate != 1], 1))
        rebuilt = (out.picture - thumbnail(pictures, self.config.side)).square().mean()
        return rebuilt + F.binary_cross_entropy_with_logits(out.text, self._said(words)) * 10

    def _said(self, words: Tensor) -> Tensor:
        """Which words are there: int64 [B, T] -> [B, V], 0 or 1"""
        return bag_of_words(words, self.config.vocabulary).clamp(max=1)

    def imagine(self, words: Tensor) -> Tensor:
        """What pictures the words int64 [B, T] go with: thumbnails [B, 3, side, side]"""
        side = self.config.side
        return self(None, words).picture.unflatten(1, (3, side, side))


def _layers(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.Sigmoid())))
