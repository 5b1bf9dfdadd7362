"""Layers of a Boltzmann machine (Smolensky, 1986; Hinton, 2002)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Units = Literal["bernoulli", "gaussian", "words"]


class RestrictedBoltzmann(nn.Module):
    """Two layers with weights between them and none within.

    E(v, h) = visible energy - (v - m) W (h - 1/2) - b (h - 1/2): the states stand around their means at the start,
    which changes the parameters but not what they can say, and lets deep machines learn without pretraining (Montavon
    and Müller, 2012). The visible units are Bernoulli (-a v), normal of variance 1 (|v - a|^2 / 2) or counts of words
    (-a v; the replicated softmax of Salakhutdinov and Hinton, 2009).

    Axes: ``B`` batch, ``V`` visible, ``H`` hidden units.
    """

    mean: Tensor

    def __init__(self, visible: int, hidden: int, units: Units = "bernoulli") -> None:
        super().__init__()
        self.units = units
        self.weight = nn.Parameter(torch.randn(visible, hidden) * 0.01)
        self.visible_bias, self.hidden_bias = nn.Parameter(torch.zeros(visible)), nn.Parameter(torch.zeros(hidden))
        self.register_buffer("mean", torch.full((visible,), 0.5 if units == "bernoulli" else 0.0))

    def up(self, v: Tensor) -> Tensor:
        """What reaches the hidden units: [B, V] -> [B, H]"""
        return (v - self.mean) @ self.weight + self.hidden_bias

    def down(self, h: Tensor) -> Tensor:
        """What reaches the visible units: [B, H] -> [B, V]"""
        return (h - 0.5) @ self.weight.T + self.visible_bias

    def visible_mean(self, total: Tensor, count: Tensor | None = None) -> Tensor:
        """The mean of the visible units that ``total`` [B, V] reaches; of ``count`` [B, 1] words."""
        if self.units == "words":
            return total.softmax(1) * (1.0 if count is None else count)
        return total.sigmoid() if self.units == "bernoulli" else total

    def visible_sample(self, total: Tensor, count: Tensor | None = None) -> Tensor:
        """A sample of them; of words their means, since a sentence has few."""
        mean = self.visible_mean(total, count)
        if self.units == "words":
            return mean
        return torch.bernoulli(mean) if self.units == "bernoulli" else mean + torch.randn_like(mean)

    @torch.no_grad()
    def begin(self, v: Tensor) -> None:
        """Takes the mean of v [B, V] for that of the visible units."""
        mean = v.mean(0)
        self.mean.copy_(mean)
        if self.units == "bernoulli":
            mean = mean.clamp(0.02, 0.98).logit()
        elif self.units == "words":
            mean = (mean + 1 / len(v)).log()
        self.visible_bias.copy_(mean)

    def _outer(self, v: Tensor) -> Tensor:
        if self.units == "gaussian":
            return (v - self.visible_bias).square().sum(1) / 2
        return -v @ self.visible_bias

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        """[B, V] and [B, H] -> [B]"""
        return self._outer(v) - (self.up(v) * (h - 0.5)).sum(1)

    def free_energy(self, v: Tensor) -> Tensor:
        """-log of the sum over all h of exp(-E(v, h)): [B, V] -> [B]"""
        x = self.up(v)
        return self._outer(v) - (F.softplus(x) - x / 2).sum(1)

    @torch.no_grad()
    def gibbs(self, v: Tensor, steps: int) -> Tensor:
        """Where a chain from v [B, V] stands after so many steps, by turns up and down: [B, V]"""
        count = v.sum(1, keepdim=True)
        for _ in range(steps):
            v = self.visible_sample(self.down(torch.bernoulli(self.up(v).sigmoid())), count)
        return v

    def divergence(self, v: Tensor, steps: int = 1) -> Tensor:
        """Contrastive divergence CD-k: a number whose gradient is that of the rule.

        The mean free energy of the data v [B, V] over that of where chains from there stand after ``steps``.
        """
        return (self.free_energy(v) - self.free_energy(self.gibbs(v, steps))).mean()
