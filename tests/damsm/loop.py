"""The loss as those who train with it write it: a loop over captions, their words repeated for every image."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy


def scores_of_caption(words: Tensor, regions: Tensor, gamma1: float, gamma2: float) -> Tensor:
    """words [T, D], regions [M, R, D] -> [M]"""
    query = words.expand(len(regions), -1, -1)
    attention = torch.bmm(regions, query.mT).softmax(2)
    attention = (gamma1 * attention.mT).softmax(2)
    context = torch.bmm(attention, regions)
    return (gamma2 * cosine_similarity(query, context, dim=2, eps=1e-8)).exp().sum(1).log()


def losses(
    words: Tensor,
    regions: Tensor,
    lengths: Tensor,
    ids: Tensor | None = None,
    gamma1: float = 5.0,
    gamma2: float = 5.0,
    gamma3: float = 10.0,
) -> tuple[Tensor, Tensor]:
    columns = [scores_of_caption(w[:n], regions, gamma1, gamma2) for w, n in zip(words, lengths.tolist(), strict=True)]
    similarities = gamma3 * torch.stack(columns, 1)
    if ids is not None:
        same = ids[:, None] == ids
        similarities = similarities.masked_fill(same.fill_diagonal_(False), -torch.inf)
    labels = torch.arange(len(words))
    return cross_entropy(similarities, labels), cross_entropy(similarities.mT, labels)
