"""DAMSM's encoders of words and pictures (Xu et al., 2018), on whose sentences generators of pictures stand."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.functional import damsm_loss, multi_positive_info_nce
from xmkern.models.parts.words import lengths


class Encoded(NamedTuple):
    """Words [B, T, D], or regions [B, R, D], and all of them together, [B, D]."""

    parts: Tensor
    whole: Tensor


class SentenceEncoder(nn.Module):
    """An LSTM both ways: each word in its sentence, and both ends together.

    Axes: ``B`` batch, ``T`` words, ``D`` the common embedding (``dim``).
    """

    def __init__(self, vocabulary: int, dim: int, word_dim: int) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary, word_dim)
        self.dropout = nn.Dropout(0.5)
        self.lstm = nn.LSTM(word_dim, dim // 2, batch_first=True, bidirectional=True)

    def forward(self, words: Tensor) -> Encoded:
        """int64 [B, T], each of at least one word"""
        if not len(words):  # the LSTM takes no empty batch
            dim = 2 * self.lstm.hidden_size
            return Encoded(*(self.word.weight.new_empty(0, *shape) for shape in ((words.shape[1], dim), (dim,))))
        packed = nn.utils.rnn.pack_padded_sequence(
            self.dropout(self.word(words)), lengths(words).clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        read, (ends, _) = self.lstm(packed)
        parts, _ = nn.utils.rnn.pad_packed_sequence(read, batch_first=True, total_length=words.shape[1])
        return Encoded(parts, torch.cat([ends[0], ends[1]], 1))


class RegionEncoder(nn.Module):
    """Strided convolutions: each region, and their mean. (The authors took a frozen Inception network.)

    Axes: ``B`` batch, ``R`` regions, ``D`` the common embedding (``dim``).

    Args:
        dim: D.
        width: of the first convolution; the next have 2 and then 4 times as many channels.
        halvings: how many convolutions, each of which halves the side.
    """

    def __init__(self, dim: int, width: int, halvings: int) -> None:
        super().__init__()
        widths = [3, *(width * min(2**i, 4) for i in range(halvings))]
        self.convs = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 3, 2, padding=1), nn.LeakyReLU(0.2)) for a, b in pairwise(widths))
        )
        self.part, self.whole = nn.Linear(widths[-1], dim), nn.Linear(widths[-1], dim)

    def forward(self, pictures: Tensor) -> Encoded:
        """[B, 3, H, W]"""
        regions = self.convs(pictures).flatten(2).mT
        return Encoded(self.part(regions), self.whole(regions.mean(1)))


def matching_loss(words: Tensor, sentence: Encoded, picture: Encoded, ids: Tensor) -> Tensor:
    """How well each picture of a batch and its sentence find each other, by words and regions and as wholes.

    Args:
        words: int64 [B, T].
        sentence, picture: what the encoders made of words and pictures.
        ids: int64 [B], equal where the picture is the same.
    """
    gamma1, gamma2, gamma3 = 4.0, 5.0, 10.0  # the authors' settings
    by_picture, by_words = damsm_loss(sentence.parts, picture.parts, lengths(words), ids, gamma1, gamma2, gamma3)
    whole, other = F.normalize(picture.whole, dim=1), F.normalize(sentence.whole, dim=1)
    # Twice: it is the mean of both directions.
    return by_picture + by_words + 2 * multi_positive_info_nce(whole, other, gamma3, x_ids=ids, same_class="hidden")
