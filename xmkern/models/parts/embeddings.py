"""From words, patches and regions to tokens."""

import torch
from torch import Tensor, nn


class WordEmbedding(nn.Module):
    """Words, places and segments summed, then normed, as in BERT (Devlin et al., 2019).

    Axes: ``B`` batch, ``T`` words, ``E`` the embedding (``dim``).

    Args:
        vocabulary: how many words.
        length: how many places.
        dim: E.
        segments: how many kinds of text; 0 for none of it.
        norm: whether LayerNorm follows.
        dropout: after that, in training.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        dim: int,
        *,
        segments: int = 0,
        norm: bool = False,
        dropout: float = 0.0,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(vocabulary, dim), nn.Embedding(length, dim)
        self.segment = nn.Embedding(segments, dim) if segments else None
        self.norm = nn.LayerNorm(dim, eps) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        for table in self.modules():
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=0.02)

    def forward(self, words: Tensor, segment: int = 0, start: int | Tensor = 0) -> Tensor:
        """int64 [B, T] -> [B, T, E]; the first word stands at place ``start``, or each row's at its own, int64 [B]."""
        count = words.shape[1]
        if isinstance(start, Tensor):
            places = self.place(start[:, None] + torch.arange(count, device=words.device))
        elif start + count <= self.place.num_embeddings:
            places = self.place.weight[start : start + count]
        else:
            raise ValueError(f"words must end within {self.place.num_embeddings} places, not at {start} + {count}")
        x = self.word(words) + places
        if self.segment is not None:
            x = x + self.segment.weight[segment]
        return self.dropout(self.norm(x))


class PatchEmbedding(nn.Module):
    """A picture's patches, after a class token, with learnt places, as in ViT (Dosovitskiy et al., 2021).

    Axes: ``B`` batch, ``P`` patches, ``E`` the embedding (``dim``).

    Args:
        size: side of a picture, in pixels.
        patch: side of a patch.
        dim: E.
        channels: of a picture.
        class_token: whether there is one, before the patches.
        bias: whether the projection has one.
    """

    def __init__(
        self, size: int, patch: int, dim: int, *, channels: int = 3, class_token: bool = True, bias: bool = True
    ) -> None:
        super().__init__()
        if size % patch:
            raise ValueError(f"patch must divide size = {size}, not {patch}")
        self.patch = nn.Conv2d(channels, dim, patch, patch, bias=bias)
        self.class_token = nn.Parameter(torch.randn(dim) * 0.02) if class_token else None
        self.place = nn.Parameter(torch.randn((size // patch) ** 2 + class_token, dim) * 0.02)

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, P, E], or [B, 1 + P, E] with a class token."""
        x = self.patch(pictures).flatten(2).mT
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), 1, -1), x], 1)
        return x + self.place


class RegionEmbedding(nn.Module):
    """Features of regions and where they lie: LN(W f) + LN(V box), or the sum itself without norms.

    Axes: ``B`` batch, ``R`` regions, ``F`` their features, ``G`` numbers of a box, ``E`` the embedding (``dim``).
    """

    def __init__(self, features: int, box: int, dim: int, *, eps: float = 1e-12) -> None:
        super().__init__()
        self.feature, self.box = nn.Linear(features, dim), nn.Linear(box, dim)
        self.feature_norm, self.box_norm = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """[B, R, F] and [B, R, G] -> [B, R, E]"""
        return self.feature_norm(self.feature(features)) + self.box_norm(self.box(boxes))
