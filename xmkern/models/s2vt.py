"""S2VT."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xmkern.models.parts.convolutions import VGG16, Vgg
from xmkern.models.parts.generation import Reader, next_word_loss
from xmkern.models.registry import register


@dataclass(frozen=True)
class S2vtConfig:
    """VGG-16 for colours and for motion; ``colour_share``: of the colours' word in what is said."""

    stages: tuple[tuple[int, ...], ...] = VGG16
    norm: bool = False
    vocabulary: int = 12594
    dim: int = 500
    hidden: int = 1000
    colour_share: float = 0.5
    dropout: float = 0.5


class S2vtOutput(NamedTuple):
    """Axes: ``B`` batch, ``T`` words, ``V`` vocabulary.

    Attributes:
        colour, motion: [B, T, V], each stream's logits of the word after each.
    """

    colour: Tensor
    motion: Tensor


class Stream(nn.Module):
    """Frames [B, F, 3, H, W] and words [B, T] through one stack of two LSTMs: first it watches, then it speaks."""

    def __init__(self, config: S2vtConfig) -> None:
        super().__init__()
        c = config
        self.dim = c.dim
        self.vision = Vgg(c.stages, norm=c.norm)
        self.frame = nn.Linear(self.vision.width, c.dim)
        self.words = nn.Embedding(c.vocabulary, c.dim)
        self.lower = nn.LSTM(c.dim, c.hidden, batch_first=True)
        self.upper = nn.LSTM(c.hidden + c.dim, c.hidden, batch_first=True)
        self.dropout = nn.Dropout(c.dropout)
        self.out = nn.Linear(c.hidden, c.vocabulary)

    def watch(self, frames: Tensor) -> tuple[Any, Any]:
        """[B, F, 3, H, W] -> the states of both layers; where words will stand there is nothing yet."""
        seen = self.vision(frames.flatten(0, 1)).mean((2, 3)).unflatten(0, frames.shape[:2])
        below, lower = self.lower(self.dropout(self.frame(seen)))
        nothing = below.new_zeros(*below.shape[:2], self.dim)
        return lower, self.upper(torch.cat([below, nothing], -1))[1]

    def speak(self, words: Tensor, lower: Any, upper: Any) -> tuple[Tensor, Any, Any]:
        """int64 [B, T] -> logits [B, T, V] and the states; where frames stood there is nothing more."""
        x = self.dropout(self.words(words))
        below, lower = self.lower(torch.zeros_like(x), lower)
        above, upper = self.upper(torch.cat([below, x], -1), upper)
        return self.out(self.dropout(above)), lower, upper


@register(
    section="F",
    paper="Venugopalan et al., Sequence to Sequence - Video to Text, ICCV 2015",
    tiny=S2vtConfig(((16,), (32,), (64,)), True, 128, 64, 128, dropout=0.1),
    full=S2vtConfig(),
)
class S2vt(nn.Module):
    """One stack of LSTMs reads all frames and then writes all words; colours and motion are fused word by word.

    The second stream watches what changes from frame to frame, where the paper has optical flow. What is said is drawn
    from the weighted mean of both streams' probabilities.

    Axes: ``B`` batch, ``F`` frames, ``T`` words, ``V`` vocabulary.
    """

    def __init__(self, config: S2vtConfig) -> None:
        super().__init__()
        self.config = config
        self.colour, self.motion = Stream(config), Stream(config)

    def _streams(self, pictures: Tensor) -> tuple[tuple[Stream, Tensor], tuple[Stream, Tensor]]:
        return (self.colour, pictures), (self.motion, pictures.diff(dim=1))

    def forward(self, pictures: Tensor, words: Tensor) -> S2vtOutput:
        """[B, F, 3, H, W], F at least 2, and int64 [B, T]"""
        return S2vtOutput(*(s.speak(words, *s.watch(frames))[0] for s, frames in self._streams(pictures)))

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Both streams' cross entropies of ``words`` int64 [B, T], after ``pictures`` [B, F, 3, H, W]."""
        out = self(batch["pictures"], batch["words"])
        return next_word_loss(out.colour, batch["words"]) + next_word_loss(out.motion, batch["words"])

    def reader(self, pictures: Tensor) -> Reader:
        """What has seen [B, F, 3, H, W] and stands before the words."""

        def read(words: Tensor, state: dict[str, Any]) -> Tensor:
            chances: Any = 0
            share = self.config.colour_share
            for (stream, weight), name in zip(((self.colour, share), (self.motion, 1 - share)), state, strict=True):
                # An LSTM's states have the batch second.
                lower, upper = ([x.transpose(0, 1).contiguous() for x in layer] for layer in state[name])
                logits, *layers = stream.speak(words, lower, upper)
                state[name] = [[x.transpose(0, 1) for x in layer] for layer in layers]
                chances = chances + weight * logits[:, -1].softmax(-1)
            return chances.log()

        streams = zip(("colour", "motion"), self._streams(pictures), strict=True)
        return Reader(
            read,
            {n: [[x.transpose(0, 1) for x in layer] for layer in s.watch(frames)] for n, (s, frames) in streams},
        )
