"""What systems that read a detector's regions are trained by: masked words and regions, pairs that match, answers."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.models.parts.regions import grid_regions
from xmkern.models.parts.words import IGNORED, AnswerHead

COLOURS = 27  # three levels of each channel
FULLNESS = 4
_WHITE = COLOURS - 1


class RegionOutput(NamedTuple):
    """Axes: ``B`` batch, ``T`` words, ``R`` regions, ``E`` the embedding.

    Attributes:
        words: [B, T, E].
        regions: [B, R, E].
        pooled: [B, E], of the first word.
    """

    words: Tensor
    regions: Tensor
    pooled: Tensor


class RegionModel(nn.Module):
    """A system that reads regions [B, R, F], boxes [B, R, 4] and words [B, T], which it takes from the grid of a
    picture where it is trained or asked for answers. Its ``forward``'s result has a field ``pooled`` [B, E].
    """

    answer_head: AnswerHead | None

    @abstractmethod
    def pretrain(self, regions: Tensor, boxes: Tensor, words: Tensor) -> Tensor:
        """The loss of what stands in regions and words alone."""

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Of ``answers`` [B] where there are any, else of the tasks of pretraining.

        Besides: ``pictures`` [B, 3, H, W], ``words`` int64 [B, T].
        """
        if "answers" in batch:
            return F.cross_entropy(self.answer(batch["pictures"], batch["words"]), batch["answers"])
        return self.pretrain(*grid_regions(batch["pictures"]), batch["words"])

    def answer(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and a question, int64 [B, T] -> logits [B, A]

        Raises:
            ValueError: the configuration has no answers.
        """
        if self.answer_head is None:
            raise ValueError("config.answers must be positive for the model to answer")
        out: Any = self(*grid_regions(pictures), words)
        return self.answer_head(out.pooled)


class RegionLabels(NamedTuple):
    """What stands for a detector's classes and attributes.

    Attributes:
        classes: [B, R, 27], shares of colours (three levels of each channel) among a region's pixels.
        attributes: int64 [B, R], the quarter into which the share of pixels falls that are not white.
    """

    classes: Tensor
    attributes: Tensor


def region_labels(regions: Tensor) -> RegionLabels:
    """Of regions [B, R, 3 P] that are pixels in -1 to 1, as those of :func:`grid_regions` are."""
    levels = ((regions.unflatten(-1, (3, -1)) + 1) * 1.5).long().clamp(0, 2)
    colours = levels[:, :, 0] * 9 + levels[:, :, 1] * 3 + levels[:, :, 2]
    counts = torch.zeros(*colours.shape[:2], COLOURS, device=colours.device)
    counts.scatter_add_(2, colours, counts.new_ones(()).expand(colours.shape))
    classes = counts / colours.shape[2]
    filled = 1 - classes[:, :, _WHITE]
    return RegionLabels(classes, (filled * FULLNESS).long().clamp(max=FULLNESS - 1))


def choose_regions(regions: Tensor, share: float = 0.15) -> Tensor:
    """bool [B, R]: which of the regions [B, R, F] are to be hidden, at least one a sample."""
    chance = torch.rand(regions.shape[:2], device=regions.device)
    return (chance < share) | (chance == chance.amin(1, keepdim=True))


class Paired(NamedTuple):
    """Words of which every second sentence is another sample's, int64 [B, T]; and 1 where they are its own [B]."""

    words: Tensor
    match: Tensor


def mismatch(words: Tensor) -> Paired:
    """Gives every second sample the sentence of the one before it; the same sentence still matches."""
    other = torch.where(torch.arange(len(words), device=words.device)[:, None] % 2 == 1, words.roll(1, 0), words)
    return Paired(other, (other == words).all(1).long())


def only(targets: Tensor, match: Tensor) -> Tensor:
    """Targets int64 [B, T] of the samples that match [B]; IGNORED elsewhere."""
    return targets.masked_fill(match[:, None] == 0, IGNORED)
