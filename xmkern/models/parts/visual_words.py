"""Visual words: the centres of k-means over features of short stretches of video (VideoBERT; Sun et al., 2019)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xmkern.data._packages import require

GRID = 8


def stretch_features(clips: Tensor, span: int = 1) -> Tensor:
    """How much ink lies in each cell of an 8 x 8 grid, in a frame and ``span`` frames later.

    Args:
        clips: [B, F, 3, H, W] in -1 (black) to 1 (white).
        span: how long a stretch is.

    Returns:
        [B, F - span, 128], in the place of a video network's features.
    """
    ink = F.adaptive_avg_pool2d((1 - clips).mean(2), GRID).flatten(2)
    return torch.cat([ink[:, :-span], ink[:, span:]], -1)


class VisualWords:
    """Hierarchical k-means: ``branches`` centres, and again as many in the cluster of each, ``levels`` deep.

    A word's number says, in base ``branches``, which way to it was taken.

    Args:
        features: [N, F], to learn from, of any clips of the training's.
        branches: of every level; clusters of fewer features get fewer.
        levels: how many; there are branches ** levels words.
        seed: of the first centres.
    """

    def __init__(self, features: Tensor, branches: int = 12, levels: int = 4, seed: int = 0) -> None:
        self.branches, self.levels, self.seed = branches, levels, seed
        self._centres: list[dict[int, Tensor]] = [{} for _ in range(levels)]
        path = torch.zeros(len(features), dtype=torch.long)
        for centres in self._centres:
            for node in path.unique().tolist():
                centres[node] = self._cluster(features[path == node])
            path = self._descend(features, path, centres)

    def __len__(self) -> int:
        return self.branches**self.levels

    def __call__(self, features: Tensor) -> Tensor:
        """[..., F] -> int64 [...]"""
        flat = features.flatten(0, -2)
        path = torch.zeros(len(flat), dtype=torch.long)
        for centres in self._centres:
            path = self._descend(flat, path, centres)
        return path.view(features.shape[:-1])

    def _cluster(self, features: Tensor) -> Tensor:
        kmeans: Any = require("sklearn.cluster", "zoo").KMeans
        count = min(self.branches, len(features.unique(dim=0)))
        found = kmeans(count, n_init=1, max_iter=20, random_state=self.seed).fit(features.numpy())
        centres = torch.from_numpy(found.cluster_centers_).to(features.dtype)
        # A centre that is nearest to nothing would have no subtree: what comes later takes the nearest of the others.
        return centres[_nearest(features, centres).unique()]

    def _descend(self, features: Tensor, path: Tensor, centres: dict[int, Tensor]) -> Tensor:
        below = torch.empty_like(path)
        for node in path.unique().tolist():
            here = path == node
            below[here] = node * self.branches + _nearest(features[here], centres[node])
        return below


def _nearest(features: Tensor, centres: Tensor) -> Tensor:
    """[N, F] and [K, F] -> [N]; by differences: how a matrix product rounds, the rest of the batch decides."""
    return torch.cdist(features, centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
