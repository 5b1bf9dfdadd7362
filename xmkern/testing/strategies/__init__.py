"""Hypothesis strategies: each draws the keyword arguments of the call of ``xmkern.functional`` with its name.

They lean towards the corners: empty axes, ties, lengths that are no multiple of anything, strided and sliced tensors.
"""

from xmkern.testing.strategies.attention import attention, mask
from xmkern.testing.strategies.bi_attention import alternating_co_attention, bi_attention, parallel_co_attention
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
from xmkern.testing.strategies.cross_attention import co_attention, cross_attention
from xmkern.testing.strategies.damsm import damsm_scores
from xmkern.testing.strategies.diffusion import diffusion_step, dynamic_threshold, q_sample
from xmkern.testing.strategies.epilogue import (
    add_layer_norm,
    add_rms_norm,
    bias_activation,
    bias_dropout_add,
    gated_activation,
    gated_residual,
    sandwich_layer_norm,
)
from xmkern.testing.strategies.hamming import (
    codes,
    hamming_distance,
    hamming_range,
    hamming_topk,
    pack_bits,
    unpack_bits,
)
from xmkern.testing.strategies.late_interaction import late_interaction_info_nce, max_similarity
from xmkern.testing.strategies.linear import linear
from xmkern.testing.strategies.transport import optimal_transport_alignment

__all__ = [
    "add_layer_norm",
    "add_rms_norm",
    "alternating_co_attention",
    "attention",
    "bi_attention",
    "bias_activation",
    "bias_dropout_add",
    "co_attention",
    "codes",
    "cosine_max_margin",
    "cross_attention",
    "damsm_scores",
    "diffusion_step",
    "distillation",
    "dynamic_threshold",
    "gated_activation",
    "gated_residual",
    "hamming_distance",
    "hamming_range",
    "hamming_topk",
    "hash_likelihood",
    "info_nce",
    "late_interaction_info_nce",
    "linear",
    "mask",
    "max_similarity",
    "mil_nce",
    "multi_positive_info_nce",
    "optimal_transport_alignment",
    "pack_bits",
    "parallel_co_attention",
    "q_sample",
    "ranking_loss",
    "reduce_similarities",
    "sandwich_layer_norm",
    "sigmoid_contrastive",
    "unpack_bits",
]
