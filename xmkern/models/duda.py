"""DUDA."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xmkern.data.words import PAD
from xmkern.models.parts.convolutions import VGG16, Vgg
from xmkern.models.parts.generation import Reader, next_word_loss
from xmkern.models.registry import register


@dataclass(frozen=True)
class DudaConfig:
    """``attention_hidden``: channels inside the attention; ``sparse`` keeps maps small, ``entropy`` looks open."""

    stages: tuple[tuple[int, ...], ...] = VGG16
    norm: bool = False
    vocabulary: int = 64
    dim: int = 1024
    attention_hidden: int = 512
    word_dim: int = 300
    hidden: int = 512
    sparse: float = 2.5e-3
    entropy: float = 1e-4
    dropout: float = 0.5


class DudaOutput(NamedTuple):
    """Axes: ``B`` batch, ``h``, ``w`` a map's places, ``T`` words, ``V`` vocabulary.

    Attributes:
        logits: [B, T, V], of the word after each.
        maps: [B, 2, h, w], where the change is before and after, 0 to 1.
        looks: [B, T, 3], how much each word is about before, the difference, and after.
    """

    logits: Tensor
    maps: Tensor
    looks: Tensor


@register(
    section="F",
    paper="Park et al., Robust Change Captioning, ICCV 2019",
    tiny=DudaConfig(((32,), (64,), (128,)), True, 128, 128, 64, 64, 128, dropout=0.1),
    full=DudaConfig(),
)
class Duda(nn.Module):
    """Where is the change before, and where after: two attentions; and of which does each word speak: a third.

    Both maps come from a picture's features beside the difference, so that a shifted viewpoint alone, which changes
    everything everywhere, does not stand out. A first LSTM weighs before, difference and after for each word, a second
    one says it.

    Axes: ``B`` batch, ``C`` channels, ``h``, ``w`` a map's places, ``T`` words, ``V`` vocabulary.
    """

    def __init__(self, config: DudaConfig) -> None:
        super().__init__()
        self.config = c = config
        self.vision = Vgg(c.stages, norm=c.norm)
        self.project = nn.Conv2d(self.vision.width, c.dim, 1)
        self.attention = nn.Sequential(
            nn.Conv2d(2 * c.dim, c.attention_hidden, 1), nn.ReLU(), nn.Dropout(c.dropout),
            nn.Conv2d(c.attention_hidden, 1, 1), nn.Sigmoid(),
        )  # fmt: skip
        self.join = nn.Sequential(nn.Linear(3 * c.dim, c.hidden), nn.ReLU(), nn.Dropout(c.dropout))
        self.words = nn.Embedding(c.vocabulary, c.word_dim)
        self.look, self.speak = nn.LSTMCell(2 * c.hidden, c.hidden), nn.LSTMCell(c.word_dim + c.dim, c.hidden)
        self.choose = nn.Linear(c.hidden, 3)
        self.out = nn.Sequential(nn.Dropout(c.dropout), nn.Linear(c.hidden, c.vocabulary))

    def localize(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 2, 3, H, W] -> before, difference and after [B, 3, C], and the maps [B, 2, h, w]"""
        x = self.project(self.vision(pictures.flatten(0, 1))).unflatten(0, (-1, 2))
        difference = (x[:, 1] - x[:, 0])[:, None].expand_as(x)
        maps = self.attention(torch.cat([x, difference], 2).flatten(0, 1)).unflatten(0, (-1, 2))
        before, after = (maps * x).sum((3, 4)).unbind(1)
        return torch.stack([before, after - before, after], 1), maps[:, :, 0]

    def _step(self, word: Tensor, state: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """int64 [B] -> logits [B, V] and looks [B, 3]"""
        seen, hidden = state["seen"], state["speak"][0]
        state["look"] = self.look(torch.cat([state["joined"], hidden], 1), state["look"])
        looks = self.choose(state["look"][0]).softmax(-1)
        about = (looks[..., None] * seen).sum(1)
        state["speak"] = self.speak(torch.cat([self.words(word), about], 1), state["speak"])
        return self.out(state["speak"][0]), looks

    def _start(self, pictures: Tensor) -> tuple[dict[str, Any], Tensor]:
        seen, maps = self.localize(pictures)
        zeros = seen.new_zeros(len(seen), self.config.hidden)
        joined = self.join(seen.flatten(1))
        return {"seen": seen, "joined": joined, "look": (zeros, zeros), "speak": (zeros, zeros)}, maps

    def forward(self, pictures: Tensor, words: Tensor) -> DudaOutput:
        """[B, 2, 3, H, W], before and after, and int64 [B, T]"""
        state, maps = self._start(pictures)
        logits, looks = zip(*(self._step(word, state) for word in words.unbind(1)), strict=True)
        return DudaOutput(torch.stack(logits, 1), maps, torch.stack(looks, 1))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross entropy of ``words`` int64 [B, T] after ``pictures`` [B, 2, 3, H, W], with small maps and open looks.

        L = L_XE + sparse L1 - entropy L_ent, as the authors' code sums them: L1 is the sum of a map, the mean of both,
        and L_ent that of a sentence's looks, over its words; both are means over the batch.
        """
        out, words = self(batch["pictures"], batch["words"]), batch["words"]
        looks = out.looks[:, :-1]
        entropy = -(looks * looks.clamp(min=1e-8).log()).sum(-1).masked_fill(words[:, 1:] == PAD, 0).sum(1).mean()
        size = out.maps.sum((2, 3)).mean()
        return next_word_loss(out.logits, words) + self.config.sparse * size - self.config.entropy * entropy

    def reader(self, pictures: Tensor) -> Reader:
        """What has seen [B, 2, 3, H, W] and stands before the words."""

        def read(words: Tensor, state: dict[str, Any]) -> Tensor:
            return [self._step(word, state)[0] for word in words.unbind(1)][-1]

        return Reader(read, self._start(pictures)[0])
