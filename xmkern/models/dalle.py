"""DALL-E."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern import masks
from xmkern.data.words import PAD
from xmkern.masks import Mask
from xmkern.models.parts.encoder import Transformer
from xmkern.models.parts.generation import Reader, nucleus
from xmkern.models.registry import register
from xmkern.models.vqvae import VqVae, VqVaeConfig
from xmkern.nn import KeyValueCache


@dataclass(frozen=True)
class DalleConfig:
    """Twelve billion parameters; ``kernel``: of the last layer's neighbourhood; ``text_share``: of the loss."""

    vocabulary: int = 16384
    length: int = 256
    codec: VqVaeConfig = field(default_factory=lambda: VqVaeConfig(codes=8192))
    dim: int = 3968
    depth: int = 64
    heads: int = 62
    kernel: int = 11
    dropout: float = 0.1
    text_share: float = 1 / 8


class DalleOutput(NamedTuple):
    """Axes: ``B`` batch, ``T`` words, ``N`` codes of a picture, ``V`` vocabulary, ``K`` kinds of codes.

    Attributes:
        words: [B, T - 1, V], logits of all words but the first.
        codes: [B, N, K], logits of the codes.
    """

    words: Tensor
    codes: Tensor


@register(
    section="E",
    paper="Ramesh et al., Zero-Shot Text-to-Image Generation, ICML 2021",
    tiny=DalleConfig(2048, 16, VqVaeConfig(32, 64, 32, 128, 32), 128, 4, 4, 3),
    full=DalleConfig(),
    kernels=("attention",),
    parameters=12_000_000_000,
)
class Dalle(nn.Module):
    """Words and then the codes of a picture, one after another, in a decoder that looks along rows and columns.

    A code sees all words and, of the codes before it, its row or its column, in the last layer its neighbourhood. The
    codes are a VQ-VAE's (the paper's is relaxed by a Gumbel softmax instead, and trained first; here it is trained
    beside).

    Axes: ``B`` batch, ``T`` words, ``N`` codes of a picture.
    """

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        self.config = c = config
        self.codec = VqVae(c.codec)
        side = c.codec.side
        self.words, self.codes = nn.Embedding(c.vocabulary, c.dim), nn.Embedding(c.codec.codes, c.dim)
        # Padding is a word of its own at each place.
        self.place, self.padding, self.row, self.column = (
            nn.Parameter(torch.randn(count, c.dim) * 0.02) for count in (c.length, c.length, side, side)
        )
        for table in (self.words, self.codes):
            nn.init.normal_(table.weight, std=0.02)
        self.decoder = Transformer(c.dim, c.depth, c.heads, dropout=c.dropout)

    def masks(self) -> list[Mask]:
        """Of each layer: rows, with every fourth layer columns, and a neighbourhood last."""
        c, side = self.config, self.config.codec.side
        kinds = ["column" if layer % 4 == 2 else "row" for layer in range(c.depth - 1)]
        last = masks.axial(c.length, side, side, "conv", c.kernel)
        return [*(masks.axial(c.length, side, side, kind) for kind in kinds), last]

    def embed_words(self, words: Tensor) -> Tensor:
        """int64 [B, T] -> [B, T, E]"""
        return torch.where((words == PAD)[..., None], self.padding, self.words(words)) + self.place

    def embed_codes(self, codes: Tensor, start: int = 0) -> Tensor:
        """int64 [B, L], of which the first stands at place ``start`` of the picture -> [B, L, E]"""
        places = torch.arange(start, start + codes.shape[1], device=codes.device)
        side = self.config.codec.side
        return self.codes(codes) + self.row[places // side] + self.column[places % side]

    def forward(self, words: Tensor, codes: Tensor) -> DalleOutput:
        """int64 [B, T], padded to the full length, and [B, N]"""
        T = words.shape[1]
        x = self.decoder(torch.cat([self.embed_words(words), self.embed_codes(codes)], 1), mask=self.masks())
        return DalleOutput(F.linear(x[:, : T - 1], self.words.weight), F.linear(x[:, T - 1 : -1], self.codes.weight))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Of words and codes after ``words`` int64 [B, T], and of the VQ-VAE, on ``pictures`` [B, 3, H, W]."""
        pictures, words = batch["pictures"], batch["words"]
        coded = self.codec(pictures)
        codes = coded.codes.flatten(1)
        out, share = self(words, codes), self.config.text_share
        of_words = F.cross_entropy(out.words.flatten(0, 1), words[:, 1:].flatten(), ignore_index=PAD)
        of_codes = F.cross_entropy(out.codes.flatten(0, 1), codes.flatten())
        return share * of_words + (1 - share) * of_codes + self.codec.error(coded, pictures)

    def log_likelihood(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and int64 [B, T] -> [B], of the picture's codes after the words"""
        codes = self.codec.encode(pictures).flatten(1)
        return -F.cross_entropy(self(words, codes).codes.mT, codes, reduction="none").sum(1)

    def reader(self) -> Reader:
        """Reads the words in one step, and then codes."""
        length, count = self.config.length, self.config.length + self.config.codec.side**2
        visible = [mask.to_dense(1, 1, count, count) for mask in self.masks()]

        def read(given: Tensor, state: dict[str, Any]) -> Tensor:
            start = state["caches"][0].length
            end = start + given.shape[1]
            x = self.embed_words(given) if start == 0 else self.embed_codes(given, start - length)
            mask = [masks.dense(each[..., start:end, :end].to(x.device)) for each in visible]
            x = self.decoder(x, mask=mask, caches=state["caches"])
            return F.linear(x[:, -1], self.codes.weight)

        return Reader(read, {"caches": [KeyValueCache() for _ in range(self.config.depth)]})

    def draw(self, words: Tensor, seed: int, share: float = 0.9) -> Tensor:
        """int64 [B, T], padded to the full length -> pictures [B, 3, H, W], drawn code by code"""
        side = self.config.codec.side
        generator = torch.Generator(words.device).manual_seed(seed)
        codes = nucleus(self.reader(), words, length=side * side, share=share, end=-1, generator=generator)
        return self.codec.decode(codes.unflatten(1, (side, side))).clamp(-1, 1)
