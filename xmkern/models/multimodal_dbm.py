"""Multimodal deep Boltzmann machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xmkern.models.parts.boltzmann import RestrictedBoltzmann
from xmkern.models.parts.features import bag_of_words, thumbnail
from xmkern.models.registry import register


@dataclass(frozen=True)
class MultimodalDbmConfig:
    """Of Flickr's pictures and tags: 3,857 features and 2,000 words.

    Attributes:
        side: of a thumbnail whose 3 side^2 numbers are the picture's features; 0 where ``features`` come as they are.
        features: how many there are.
        deviation: of the features, whose units are normal.
        likelihood: the weight of its bound beside telling one modality from the other.
        chains: how many persistent ones there are.
        sweeps: of mean field.
    """

    side: int = 0
    features: int = 3857
    deviation: float = 1.0
    vocabulary: int = 2000
    hidden: int = 1024
    joint: int = 2048
    likelihood: float = 1.0
    chains: int = 128
    sweeps: int = 10


class MultimodalDbmOutput(NamedTuple):
    """Axes: ``B`` batch, ``H`` hidden units of a pathway, ``J`` joint units, ``F`` features, ``V`` vocabulary.

    Attributes:
        joint: [B, J], probabilities.
        picture, text: of the two layers of each pathway, [B, H].
        features, words: what the machine expects to see: [B, F] and [B, V].
    """

    joint: Tensor
    picture: tuple[Tensor, Tensor]
    text: tuple[Tensor, Tensor]
    features: Tensor
    words: Tensor


class Pathway(nn.Module):
    """Two layers above a modality."""

    def __init__(self, lower: RestrictedBoltzmann, upper: RestrictedBoltzmann) -> None:
        super().__init__()
        self.lower, self.upper = lower, upper

    def energy(self, v: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """[B, V], [B, H] and [B, H] -> [B]"""
        return self.lower.energy(v, first) + self.upper.energy(first, second)

    def middle(self, v: Tensor, second: Tensor) -> Tensor:
        """Probabilities of the first hidden layer between the two it hears."""
        return (self.lower.up(v) + self.upper.down(second)).sigmoid()


@register(
    section="A",
    paper="Srivastava and Salakhutdinov, Multimodal Learning with Deep Boltzmann Machines, NIPS 2012",
    tiny=MultimodalDbmConfig(8, 192, 0.2, 2048, 256, 256, 0.001, sweeps=5),
    full=MultimodalDbmConfig(),
)
class MultimodalDbm(nn.Module):
    """An undirected model of pictures and words whose joint layer is inferred from either, and dreams the other.

    Learning raises the likelihood by its variational bound: mean field where data are seen, persistent Gibbs chains
    where the model dreams (Salakhutdinov and Hinton, 2009). Beside that, mean field's answer to either modality alone
    is trained to be the other, through its sweeps (Sohn et al., 2014): in two minutes the likelihood alone does not
    join the pathways.

    Axes: ``B`` batch, ``F`` features, ``T`` words, ``V`` vocabulary, ``J`` joint units.
    """

    begun: Tensor

    def __init__(self, config: MultimodalDbmConfig) -> None:
        super().__init__()
        self.config = c = config
        self.picture = Pathway(
            RestrictedBoltzmann(c.features, c.hidden, "gaussian"), RestrictedBoltzmann(c.hidden, c.hidden)
        )
        self.text = Pathway(
            RestrictedBoltzmann(c.vocabulary, c.hidden, "words"), RestrictedBoltzmann(c.hidden, c.hidden)
        )
        self.joint = RestrictedBoltzmann(2 * c.hidden, c.joint)
        self.register_buffer("begun", torch.tensor(False))
        for name, width in (("features", c.features), ("words", c.vocabulary), ("top", c.joint)):
            self.register_buffer(f"chain_{name}", torch.zeros(c.chains, width))
        self.register_buffer("chain_second", torch.zeros(c.chains, 2 * c.hidden))

    def features(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W], or [B, F] where ``side`` is 0 -> [B, F], in deviations"""
        return (thumbnail(pictures, self.config.side) if self.config.side else pictures) / self.config.deviation

    def forward(self, features: Tensor | None, words: Tensor | None) -> MultimodalDbmOutput:
        """Mean field, given features [B, F] and counts of words [B, V] or one of them; the other is inferred too."""
        given = features if features is not None else words
        if given is None:
            raise ValueError("features and words are both None: one of them must be given")
        v, w = features, words
        h2 = given.new_full((len(given), 2 * self.config.hidden), 0.5)
        j = given.new_full((len(given), self.config.joint), 0.5)
        count = given.new_full((len(given), 1), 4.0)  # words that a sentence has where none is given
        for _ in range(self.config.sweeps):
            p2, t2 = h2.chunk(2, 1)
            p1 = self.picture.middle(v, p2) if v is not None else self.picture.upper.down(p2).sigmoid()
            t1 = self.text.middle(w, t2) if w is not None else self.text.upper.down(t2).sigmoid()
            if features is None:
                v = self.picture.lower.down(p1)
            if words is None:
                w = self.text.lower.visible_mean(self.text.lower.down(t1), count)
            below = torch.cat([self.picture.upper.up(p1), self.text.upper.up(t1)], 1)
            h2 = (below + self.joint.down(j)).sigmoid()
            j = self.joint.up(h2).sigmoid()
        p2, t2 = h2.chunk(2, 1)
        assert v is not None
        assert w is not None
        return MultimodalDbmOutput(j, (p1, p2), (t1, t2), v, w)

    def energy(self, state: MultimodalDbmOutput) -> Tensor:
        """[B]"""
        (p1, p2), (t1, t2) = state.picture, state.text
        sides = self.picture.energy(state.features, p1, p2) + self.text.energy(state.words, t1, t2)
        return sides + self.joint.energy(torch.cat([p2, t2], 1), state.joint)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Of ``pictures`` [B, 3, H, W] and ``words`` [B, T]: a number whose gradient is the rule's; it may rise."""
        v, w = self.features(batch["pictures"]), bag_of_words(batch["words"], self.config.vocabulary)
        begin = self.training and not self.begun
        if begin:
            self.picture.lower.begin(v)
            self.text.lower.begin(w)
        with torch.no_grad():
            state = self(v, w)
            if begin:
                self._begin_chains(state)
            dream = self._dream()
        gap = self.energy(state).mean() - self.energy(dream).mean()
        return self.config.likelihood * gap + self._conditional(v, w)

    def _conditional(self, v: Tensor, w: Tensor) -> Tensor:
        """How badly either modality is told from the other."""
        seen, read = self(v, None), self(None, w)
        said = -(w * self._log_words(seen)).sum(1) / w.sum(1).clamp(min=1)
        return said.mean() + (read.features - v).square().mean()

    def _log_words(self, seen: MultimodalDbmOutput) -> Tensor:
        """[B, V], log probabilities of a word, of which ``seen.words`` may hold zeros."""
        return self.text.lower.down(seen.text[0]).log_softmax(1)

    def _begin_chains(self, seen: MultimodalDbmOutput) -> None:
        chain: Any = self
        rows = torch.arange(self.config.chains, device=seen.joint.device) % len(seen.joint)
        chain.chain_features.copy_(seen.features[rows])
        chain.chain_words.copy_(seen.words[rows])
        chain.chain_second.copy_(torch.cat([seen.picture[1], seen.text[1]], 1)[rows].bernoulli())
        chain.chain_top.copy_(seen.joint[rows].bernoulli())
        self.begun.fill_(True)

    def _dream(self) -> MultimodalDbmOutput:
        """The chains after one more sweep, where they stay in training."""
        chain: Any = self
        p2, t2 = chain.chain_second.chunk(2, 1)
        p1 = self.picture.middle(chain.chain_features, p2).bernoulli()
        t1 = self.text.middle(chain.chain_words, t2).bernoulli()
        below = torch.cat([self.picture.upper.up(p1), self.text.upper.up(t1)], 1)
        second = (below + self.joint.down(chain.chain_top)).sigmoid().bernoulli()
        count = chain.chain_words.sum(1, keepdim=True)
        features = self.picture.lower.visible_sample(self.picture.lower.down(p1))
        words = self.text.lower.visible_sample(self.text.lower.down(t1), count)
        top = self.joint.up(second).sigmoid().bernoulli()
        if self.training:
            for name, state in (("features", features), ("words", words), ("second", second), ("top", top)):
                getattr(self, f"chain_{name}").copy_(state)
        p2, t2 = second.chunk(2, 1)
        return MultimodalDbmOutput(top, (p1, p2), (t1, t2), features, words)

    def similarity(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and int64 [C, T] -> [B, C]: how much likelier each sentence's words are for the picture"""
        w = bag_of_words(words, self.config.vocabulary)
        said = self._log_words(self(self.features(pictures), None)) - self.text.lower.visible_bias.log_softmax(0)
        return said @ (w / w.sum(1, keepdim=True).clamp(min=1)).T
