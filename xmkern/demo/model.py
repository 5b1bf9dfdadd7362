"""A dual encoder small enough to train from scratch in a minute or two: pictures and names into one space, and to bits.

Axes: ``B`` batch, ``L`` words, ``S`` tokens of a sequence, ``E`` embedding size (128), ``K`` bits (64).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.demo.text import BUCKETS, MAX_WORDS, Tokens
from xmkern.nn import TransformerEncoderLayer

SIZE = 128
BITS = 64
SIDE = 64  # of the pictures, in pixels


def block(dropout: float) -> TransformerEncoderLayer:
    """One pre-norm transformer layer over ``[B, S, E]``."""
    layer = TransformerEncoderLayer(SIZE, 4, 2 * SIZE, dropout, "gelu", batch_first=True, norm_first=True)
    # Begins as the identity: a bag of words or places learns much in a minute, and attention adds to it.
    nn.init.zeros_(layer.self_attn.out_proj.weight)
    nn.init.zeros_(layer.linear2.weight)
    return layer


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
        )
        self.second = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        shrink = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.shortcut = nn.Sequential(shrink, nn.Conv2d(channels, out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.second(self.first(x)))


class PictureTower(nn.Module):
    """Pictures float ``[B, 3, 64, 64]`` to ``[B, E]``: a small CNN, then attention over its 4 x 4 places."""

    def __init__(self, width: int = 32, dropout: float = 0.2) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(3, width, 4, 4, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            Residual(width, width, 1),
            Residual(width, 2 * width, 2),
            Residual(2 * width, 4 * width, 2),
            nn.Conv2d(4 * width, SIZE, 1),
        )
        self.place = nn.Parameter(torch.randn((SIDE // 16) ** 2, SIZE) * 0.02)
        self.block = block(dropout)
        self.head = nn.Sequential(nn.LayerNorm(SIZE), nn.Dropout(dropout), nn.Linear(SIZE, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.cnn(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.block(tokens).mean(1))


class TextTower(nn.Module):
    """Names to ``[B, E]``: hashed n-gram embeddings of each word, then attention over the words."""

    def __init__(self, dropout: float = 0.2, drop_words: float = 0.1) -> None:
        super().__init__()
        self.dropout, self.drop_words = dropout, drop_words
        self.gram = nn.EmbeddingBag(BUCKETS, SIZE, mode="sum", padding_idx=0)
        with torch.no_grad():
            self.gram.weight.mul_(0.3)
        self.place = nn.Parameter(torch.randn(MAX_WORDS, SIZE) * 0.02)
        self.block = block(dropout)
        self.head = nn.Sequential(nn.LayerNorm(SIZE), nn.Linear(SIZE, SIZE))

    def forward(self, tokens: Tokens) -> Tensor:
        words = tokens.words[:, : int((tokens.words > 0).sum(1).max())]
        keep = words > 0
        if self.training:  # a name must be told by some of its words, so that new names are by theirs
            dropped = keep & (torch.rand(words.shape) > self.drop_words)
            keep = torch.where(dropped.any(1, keepdim=True), dropped, keep)
        # A batch repeats its words: embed each once.
        distinct, where = words.unique(return_inverse=True)
        grams = tokens.grams[distinct]
        count = (grams > 0).sum(1, keepdim=True).clamp(min=1)
        x = (self.gram(grams) / count.sqrt())[where]
        x = F.dropout(x, self.dropout, self.training) + self.place[: words.shape[1]]
        x = self.block(x, src_key_padding_mask=~keep)
        share = keep.unsqueeze(-1).to(x.dtype)
        return self.head((x * share).sum(1) / share.sum(1))


class DualEncoder(nn.Module):
    """Both towers, one hash layer that they share, and a group classifier that helps both.

    ``picture`` and ``text`` give unit vectors float ``[B, E]``; ``bits`` turns these into numbers ``[B, K]`` whose
    signs are the code.
    """

    def __init__(self, groups: int = 9) -> None:
        super().__init__()
        self.picture_tower, self.text_tower = PictureTower(), TextTower()
        self.hash = nn.Linear(SIZE, BITS, bias=False)
        nn.init.orthogonal_(self.hash.weight)
        self.group = nn.Linear(SIZE, groups)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def picture(self, pictures: Tensor) -> Tensor:
        return F.normalize(self.picture_tower(pictures), dim=1)

    def text(self, tokens: Tokens) -> Tensor:
        return F.normalize(self.text_tower(tokens), dim=1)

    def bits(self, embedding: Tensor) -> Tensor:
        return self.hash(embedding) * math.sqrt(SIZE)


def normalise(pictures: Tensor) -> Tensor:
    """uint8 or float 0..255 ``[B, 3, H, W]`` to what the tower takes; most of a picture is white."""
    return (pictures.float() / 255 - 0.8) / 0.3
