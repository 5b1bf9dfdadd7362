"""Features that nobody learnt."""

import torch
from torch import Tensor
from torch.nn import functional as F

from xmkern.data.words import SPECIAL


def bag_of_words(words: Tensor, vocabulary: int) -> Tensor:
    """How often each word stands in a sentence: int64 [B, T] -> float [B, vocabulary], 0 for what is no word."""
    counts = torch.zeros(len(words), vocabulary, device=words.device)
    counts.scatter_add_(1, words, torch.ones_like(words, dtype=counts.dtype))
    counts[:, :SPECIAL] = 0
    return counts


def thumbnail(pictures: Tensor, side: int) -> Tensor:
    """Mean colours of side x side fields: [B, C, H, W] -> [B, C side side]"""
    return F.adaptive_avg_pool2d(pictures, side).flatten(1)
