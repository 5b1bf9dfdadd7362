"""How well words fit the regions of images, in plain PyTorch, one caption at a time. Named axes: README.md.

Matrices are multiplied in the inputs' own dtype, as a model in eager PyTorch does; the softmaxes and the cosines are in
float32, or float64 where the inputs are.
"""

import torch
from torch import Tensor

from xmkern.ops.dtype import wide_dtype

LEAST_NORM = 1e-8


def word_region_cosines(words: Tensor, regions: Tensor, lengths: Tensor, gamma1: float) -> tuple[Tensor, Tensor]:
    """-> the cosine [N, M, T] of each word and its context in each image, and the norms [N, M, T] of the contexts"""
    with torch.autocast(words.device.type, enabled=False):
        cosines = words.new_zeros(len(words), len(regions), words.shape[1], dtype=wide_dtype(words.dtype))
        norms = torch.zeros_like(cosines)
        for i, length in enumerate(_known(lengths, words)):
            word = words[i, :length]
            _, _, contexts = _attend(word, regions, gamma1)
            norms[i, :, :length] = contexts.norm(dim=-1)
            products = word.to(contexts).norm(dim=-1) * norms[i, :, :length]
            cosines[i, :, :length] = (contexts * word.to(contexts)).sum(-1) / products.clamp(min=LEAST_NORM)
        return cosines, norms


def word_region_cosines_backward(
    grad_cosines: Tensor,
    words: Tensor,
    regions: Tensor,
    lengths: Tensor,
    cosines: Tensor,
    norms: Tensor,
    gamma1: float,
) -> tuple[Tensor, Tensor]:
    """-> the gradients of words and regions; all but the cosines and the norms is computed again"""
    with torch.autocast(words.device.type, enabled=False):
        grad_words = torch.zeros_like(words, memory_format=torch.contiguous_format)
        grad_regions = torch.zeros_like(regions, dtype=cosines.dtype, memory_format=torch.contiguous_format)
        for i, length in enumerate(_known(lengths, words)):
            narrow = words[i, :length]
            shares, weights, contexts = _attend(narrow, regions, gamma1)
            word = narrow.to(contexts)
            cosine, norm, grad = (x[i, :, :length] for x in (cosines, norms, grad_cosines))
            word_norm = word.norm(dim=-1)
            products = word_norm * norm
            turned = torch.where(products < LEAST_NORM, 0, grad * cosine)  # a clamped product has no slope
            to_word = (grad / products.clamp(min=LEAST_NORM))[..., None]
            grad_contexts = to_word * word - torch.where(turned == 0, 0, turned / norm.square())[..., None] * contexts
            grad_contexts = grad_contexts.to(words.dtype)
            grad_weights = (regions @ grad_contexts.mT).to(weights)
            grad_shares = gamma1 * weights * (grad_weights - (weights * grad_weights).sum(-2, keepdim=True))
            grad_scores = shares * (grad_shares - (shares * grad_shares).sum(-1, keepdim=True))
            grad_scores = grad_scores.to(words.dtype)
            grad_regions += weights.to(words.dtype) @ grad_contexts + grad_scores @ narrow
            from_word = torch.where(word_norm > 0, turned.sum(0) / word_norm.square(), 0)[..., None]
            through_scores = (grad_scores.mT @ regions).to(contexts)
            grad_words[i, :length] = (through_scores + to_word * contexts).sum(0) - from_word * word
        return grad_words, grad_regions.to(regions.dtype)


def _attend(word: Tensor, regions: Tensor, gamma1: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of the words [T, D] of one caption: -> the shares [M, R, T] of regions among words (equation 8 of the paper), the
    weights [M, R, T] of regions for words (9), the contexts [M, T, D]."""
    wide = wide_dtype(word.dtype)
    shares = (regions @ word.mT).to(wide).softmax(-1)
    weights = (gamma1 * shares).softmax(-2)
    return shares, weights, (weights.mT.to(word.dtype) @ regions).to(wide)


def _known(lengths: Tensor, words: Tensor) -> list[int]:
    return lengths.clamp(0, words.shape[1]).tolist()
