"""Restricted Boltzmann machines, stacked."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xmkern.models.parts.boltzmann import RestrictedBoltzmann, Units
from xmkern.models.parts.features import thumbnail
from xmkern.models.registry import register


@dataclass(frozen=True)
class RbmConfig:
    """The deep belief net that drew digits, without its ten labels.

    ``units`` of the pixels: "bernoulli" takes brightness as a probability, "gaussian" asks for ``deviation``.
    """

    size: int = 28
    channels: int = 1
    hidden: tuple[int, ...] = (500, 500, 2000)
    units: Units = "bernoulli"
    deviation: float = 1.0
    steps: int = 1
    chain: int = 200


class RbmOutput(NamedTuple):
    """Axes: ``B`` batch, ``H`` hidden units.

    Attributes:
        hidden: of each layer, probabilities [B, H].
        free_energy: [B], of the lowest layer.
    """

    hidden: tuple[Tensor, ...]
    free_energy: Tensor


@register(
    section="A",
    paper="Hinton et al., A Fast Learning Algorithm for Deep Belief Nets, Neural Computation 2006",
    tiny=RbmConfig(32, 3, (256, 128), "gaussian", 0.5),
    full=RbmConfig(),
)
class Rbm(nn.Module):
    """Learns by letting short Gibbs chains drift from the data, whose energy sinks below theirs; layers are stacked.

    All layers learn at once, each on what the one below says, whose weights it does not touch. Drawing runs a chain in
    the two highest layers and goes down from there: a deep belief net.

    Axes: ``B`` batch, ``V`` visible units.
    """

    begun: Tensor

    def __init__(self, config: RbmConfig) -> None:
        super().__init__()
        self.config = c = config
        widths = (c.channels * c.size**2, *c.hidden)
        units: list[Units] = [c.units, *["bernoulli"] * (len(c.hidden) - 1)]  # type: ignore[list-item]
        self.layers: Any = nn.ModuleList(
            RestrictedBoltzmann(*w, u) for w, u in zip(pairwise(widths), units, strict=True)
        )
        self.register_buffer("begun", torch.tensor(False))

    def visible(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, V]"""
        c = self.config
        x = thumbnail(pictures if c.channels == 3 else pictures.mean(1, keepdim=True), c.size)
        return (x + 1) / 2 if c.units == "bernoulli" else x / c.deviation

    def forward(self, pictures: Tensor) -> RbmOutput:
        """[B, 3, H, W]"""
        v = self.visible(pictures)
        first = self.layers[0]
        free_energy, hidden = first.free_energy(v), []
        for layer in self.layers:
            v = layer.up(v).sigmoid()
            hidden.append(v)
        return RbmOutput(tuple(hidden), free_energy)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The layers' contrastive divergences of ``pictures`` [B, 3, H, W], added up; not a distance: it may rise."""
        v = self.visible(batch["pictures"])
        if self.training and not self.begun:
            self.layers[0].begin(v)
            self.begun.fill_(True)
        loss = v.new_zeros(())
        for layer in self.layers:
            loss = loss + layer.divergence(v, self.config.steps)
            with torch.no_grad():
                v = torch.bernoulli(layer.up(v).sigmoid())
        return loss

    def free_energy(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B], less for what is likely"""
        return self(pictures).free_energy

    @torch.no_grad()
    def draw(self, count: int, seed: int = 0) -> Tensor:
        """-> [count, 3, H, W]"""
        c = self.config
        *lower, top = self.layers
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            v: Tensor = top.gibbs(torch.rand(count, len(top.visible_bias)).bernoulli(), c.chain)
            v = top.visible_mean(top.down(top.up(v).sigmoid()))
            for layer in reversed(lower):
                v = layer.visible_mean(layer.down(torch.bernoulli(v)))
        x = v * 2 - 1 if c.units == "bernoulli" else v * c.deviation
        return x.unflatten(1, (c.channels, c.size, c.size)).expand(-1, 3, -1, -1).clamp(-1, 1)
