"""Deep cross-modal hashing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xmkern.functional import hash_likelihood
from xmkern.models.parts.cnn import CNN_F, SMALL, Cnn, PictureEncoder
from xmkern.models.parts.features import bag_of_words
from xmkern.models.registry import register


@dataclass(frozen=True)
class DcmhConfig:
    """On MIRFlickr-25K, with its 1,386 tags; ``items``: how many things there are to learn from, at most."""

    picture: Cnn = CNN_F
    vocabulary: int = 1386
    hidden: int = 8192
    bits: int = 64
    items: int = 10_000
    quantization: float = 1.0
    balance: float = 1.0


class DcmhOutput(NamedTuple):
    """Axes: ``B`` pictures, ``C`` texts, ``K`` bits, of which these are the signs.

    Attributes:
        picture: [B, K].
        text: [C, K].
    """

    picture: Tensor
    text: Tensor


@register(
    section="B",
    paper="Jiang and Li, Deep Cross-Modal Hashing, CVPR 2017",
    tiny=DcmhConfig(SMALL, 2048, 512, 32, 4096, balance=0.02),
    full=DcmhConfig(),
    kernels=("similarity_reduce",),
    # The layers of the paper's tables 2 and 3: CNN-F (60,834,536) with 64 outputs for 1,000, and two layers of text.
    parameters=60_834_536 - 4097 * 1000 + 4097 * 64 + 1387 * 8192 + 8193 * 64,
)
class Dcmh(nn.Module):
    """Features and binary codes are learnt as one: related pairs have a great product, whose signs are the bits.

    Three steps in turn: the picture network against the codes that all texts had when last seen, the text network
    against those of all pictures, and B, the codes of both, which are the signs of their sum. Each network's codes
    are drawn to B and to be on in half of the items.

    Axes: ``B`` pictures, ``C`` texts, ``T`` words, ``K`` bits, ``N`` items.
    """

    picture_memory: Tensor
    text_memory: Tensor
    groups: Tensor

    def __init__(self, config: DcmhConfig) -> None:
        super().__init__()
        self.config = c = config
        self.cnn = PictureEncoder(c.picture)
        self.picture_out = nn.Linear(self.cnn.dim, c.bits)
        self.text = nn.Sequential(nn.Linear(c.vocabulary, c.hidden), nn.ReLU(), nn.Linear(c.hidden, c.bits))
        # Items never seen are 0: they pull nowhere, and are related to none.
        self.register_buffer("picture_memory", torch.zeros(c.items, c.bits))
        self.register_buffer("text_memory", torch.zeros(c.items, c.bits))
        self.register_buffer("groups", torch.full((c.items,), -1))

    def picture_codes(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, K]"""
        return self.picture_out(self.cnn(pictures))

    def word_codes(self, words: Tensor) -> Tensor:
        """int64 [C, T] -> [C, K], of a bag of words."""
        return self.text(bag_of_words(words, self.config.vocabulary))

    def forward(self, pictures: Tensor, words: Tensor) -> DcmhOutput:
        """[B, 3, H, W] and int64 [C, T]"""
        return DcmhOutput(self.picture_codes(pictures), self.word_codes(words))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The paper's objective for both networks, divided by N B; in training what is seen is kept.

        Of ``pictures`` [B, 3, H, W], ``words`` [B, T], ``rows`` int64 [B], which of the items they are, and ``groups``
        int64 [B]: equal where they are related.
        """
        out, c = self(batch["pictures"], batch["words"]), self.config
        rows, groups = batch["rows"], batch["groups"]
        memories = self.picture_memory, self.text_memory
        if self.training:
            self.groups[rows] = groups
            for memory, codes in zip(memories, out, strict=True):
                memory[rows] = codes.detach()
        signs = torch.where(memories[0][rows] + memories[1][rows] >= 0, 1.0, -1.0)
        loss = torch.zeros((), device=rows.device)
        for codes, other in zip(out, memories[::-1], strict=True):
            likelihood = hash_likelihood(codes, other, f_ids=groups, g_ids=self.groups, reduction="sum")
            quantization = (signs - codes).square().sum()
            # The square of the sum over all items, by the batch's share in it: the memory's lags, and swings.
            balance = codes.sum(0).square().sum() * c.items / len(rows)
            loss = loss + likelihood + c.quantization * quantization + c.balance * balance
        return loss / (len(rows) * c.items)
