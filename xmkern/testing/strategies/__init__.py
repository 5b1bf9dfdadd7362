"""Hypothesis strategies: each draws the keyword arguments of the call of ``xmkern.functional`` with its name.

They lean towards the corners: empty axes, ties, lengths that are no multiple of anything, strided and sliced tensors.
"""

from xmkern.testing.strategies.attention import attention, mask
from xmkern.testing.strategies.contrastive import (
    cosine_max_margin,
    distillation,
    hash_likelihood,
    info_nce,
    mil_nce,
    multi_positive_info_nce,
    ranking_loss,
    reduce_similarities,
    sigmoid_contrastive,
)
from xmkern.testing.strategies.damsm import damsm_scores
from xmkern.testing.strategies.diffusion import diffusion_step, dynamic_threshold, q_sample
from xmkern.testing.strategies.hamming import (
    codes,
    hamming_distance,
    hamming_range,
    hamming_topk,
    pack_bits,
    unpack_bits,
)
from xmkern.testing.strategies.late_interaction import late_interaction_info_nce, max_similarity
from xmkern.testing.strategies.transport import optimal_transport_alignment

__all__ = [
    "attention",
    "codes",
    "cosine_max_margin",
    "damsm_scores",
    "diffusion_step",
    "distillation",
    "dynamic_threshold",
    "hamming_distance",
    "hamming_range",
    "hamming_topk",
    "hash_likelihood",
    "info_nce",
    "late_interaction_info_nce",
    "mask",
    "max_similarity",
    "mil_nce",
    "multi_positive_info_nce",
    "optimal_transport_alignment",
    "pack_bits",
    "q_sample",
    "ranking_loss",
    "reduce_similarities",
    "sigmoid_contrastive",
    "unpack_bits",
]
