"""Find what is of one kind by short binary codes, across the modalities."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmkern.functional import hamming_topk, pack_bits
from xmkern.metrics import mean_average_precision
from xmkern.zoo.tasks.base import Score, Task


class Hashing(Task):
    """Mean average precision by Hamming distance, mean of both directions: what is of the same group is relevant.

    The queries are of concepts never seen, the gallery is what was learnt from: the protocol of DCMH. There are
    no skin tones, which would make half of all things people. Ties count as the mean over their orders.

    The model has ``picture_codes(pictures [B, 3, H, W]) -> [B, K]`` and ``word_codes(words [C, T]) -> [C, K]``, of
    which the signs are the bits.
    """

    metric = "mAP"
    baseline = "random codes"

    def __init__(self, seed: int = 0, **task: Any) -> None:
        super().__init__(seed, **task)
        self._weights[torch.from_numpy(self.data.toned[self.train_rows])] = 0

    @torch.inference_mode()
    def evaluate(self, model: Any) -> Score:
        codes = {}
        for part, rows in (("query", self._plain(self.test_rows)), ("gallery", self._plain(self.train_rows))):
            pictures = [model.picture_codes(self.pictures(some)) for some in np.array_split(rows, -(-len(rows) // 256))]
            codes[part] = torch.cat(pictures), model.word_codes(self.words[rows]), self.groups[rows]
        query_groups, gallery_groups = codes["query"][2], codes["gallery"][2]
        generator = torch.Generator().manual_seed(0)
        value, chance = [], []
        for of, among in ((0, 1), (1, 0)):
            query, gallery = codes["query"][of], codes["gallery"][among]
            value.append(_precision(query, gallery, query_groups, gallery_groups))
            query, gallery = (torch.randn(x.shape, generator=generator) for x in (query, gallery))
            chance.append(_precision(query, gallery, query_groups, gallery_groups))
        return Score(float(np.mean(value)), float(np.mean(chance)))

    def _plain(self, rows: np.ndarray) -> np.ndarray:
        return rows[~self.data.toned[rows]]


def _precision(query: Tensor, gallery: Tensor, query_groups: Tensor, gallery_groups: Tensor) -> float:
    distances, found = hamming_topk(pack_bits(query), pack_bits(gallery), len(gallery))
    return mean_average_precision(distances, gallery_groups[found] == query_groups[:, None], ties="expected")
