"""Contrastive losses: reductions of a matrix of similarities over its rows and columns, the matrix never formed."""

from xmkern.ops.contrastive.loss import loss_of_similarities
from xmkern.ops.contrastive.op import (
    Pairs,
    Reduced,
    reduce_similarities,
    similarity_reduce,
    similarity_reduce_backward,
)

__all__ = [
    "Pairs",
    "Reduced",
    "loss_of_similarities",
    "reduce_similarities",
    "similarity_reduce",
    "similarity_reduce_backward",
]
