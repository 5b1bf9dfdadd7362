"""Who says whether a picture fits a name, without having seen what is judged."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


class Judge:
    """Ridge regression from colours and edges of pictures to the words of their names, weighed by how rare they are.

    Args:
        pictures: float [N, 3, H, W], -1 to 1, sides multiples of 8.
        words: float [N, V], 1 for the words that a name has.
        ridge: of the regression, for each picture.
    """

    def __init__(self, pictures: Tensor, words: Tensor, *, ridge: float = 0.3) -> None:
        self._rarity = torch.log(len(words) / words.sum(0).clamp(min=1))
        targets = F.normalize(words * self._rarity, dim=1)
        features = descriptors(pictures)
        self._mean, self._deviation, self._middle = features.mean(0), features.std(0) + 1e-3, targets.mean(0)
        x = (features - self._mean) / self._deviation
        square = x.T @ x + ridge * len(x) * torch.eye(x.shape[1])
        self._map = torch.linalg.solve(square, x.T @ (targets - self._middle))

    def scores(self, pictures: Tensor, words: Tensor) -> Tensor:
        """[B, 3, H, W] and [C, V] -> [B, C], higher where they fit"""
        found = (descriptors(pictures) - self._mean) / self._deviation @ self._map
        return found @ (F.normalize(words * self._rarity, dim=1) - self._middle).T


def descriptors(pictures: Tensor) -> Tensor:
    """Of 8 x 8 cells the mean colour and edges in six directions (Dalal and Triggs, 2005); and which of 4 x 4 x 4
    colours there are: [N, 3, H, W] -> [N, 640]"""
    x = pictures.clamp(-1, 1)
    brightness = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    right = brightness[:, :, 1:-1, 2:] - brightness[:, :, 1:-1, :-2]
    down = brightness[:, :, 2:, 1:-1] - brightness[:, :, :-2, 1:-1]
    direction = (torch.atan2(down, right) / math.pi * 6 + 0.5).floor() % 6
    edges = torch.cat([(direction == d) * torch.hypot(right, down) for d in range(6)], 1)
    bins = ((x + 1) * 2).long().clamp(max=3)
    bins = (bins[:, 0] * 16 + bins[:, 1] * 4 + bins[:, 2]).flatten(1)
    colours = torch.zeros(len(x), 64).scatter_add_(1, bins, torch.ones(bins.shape)) / bins.shape[1]
    parts = (F.adaptive_avg_pool2d(x, 8), F.adaptive_avg_pool2d(edges, 8).sqrt(), colours.sqrt())
    return torch.cat([part.flatten(1) for part in parts], 1)
