"""The public, stateless calls. They check their arguments, then call an operator.

Every call takes ``backend``: ``"auto"`` picks the fastest that can serve it; a name (``"cpu"``, ``"triton"``,
``"reference"``, ...) forces one, and raises the reason if that one cannot.
"""

from xmkern._functional.attention import attention, merge_attention, scaled_dot_product_attention
from xmkern._functional.bi_attention import bi_attention
from xmkern._functional.contrastive import info_nce, sigmoid_contrastive
from xmkern._functional.cross_attention import KeyValue, co_attention, cross_attention
from xmkern._functional.damsm import damsm_loss, damsm_scores
from xmkern._functional.diffusion import (
    classifier_guidance,
    diffusion_step,
    dynamic_threshold,
    philox_normal,
    q_sample,
)
from xmkern._functional.diffusion_coefficients import DynamicThreshold, StepCoefficients
from xmkern._functional.distillation import distillation
from xmkern._functional.epilogue import bias_activation, gated_activation, gated_residual
from xmkern._functional.hamming import hamming_distance, hamming_range, hamming_topk, pack_bits, unpack_bits
from xmkern._functional.hashing import bitwise_max_margin, cosine_max_margin, hash_likelihood
from xmkern._functional.late_interaction import late_interaction_info_nce, max_similarity
from xmkern._functional.linear import linear
from xmkern._functional.multi_positive import mil_nce, multi_positive_info_nce
from xmkern._functional.norms import add_layer_norm, add_rms_norm, bias_dropout_add, sandwich_layer_norm
from xmkern._functional.pooled_co_attention import alternating_co_attention, parallel_co_attention
from xmkern._functional.ranking import ranking_loss
from xmkern._functional.transport import optimal_transport_alignment

__all__ = [
    "DynamicThreshold",
    "KeyValue",
    "StepCoefficients",
    "add_layer_norm",
    "add_rms_norm",
    "alternating_co_attention",
    "attention",
    "bi_attention",
    "bias_activation",
    "bias_dropout_add",
    "bitwise_max_margin",
    "classifier_guidance",
    "co_attention",
    "cosine_max_margin",
    "cross_attention",
    "damsm_loss",
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
    "max_similarity",
    "merge_attention",
    "mil_nce",
    "multi_positive_info_nce",
    "optimal_transport_alignment",
    "pack_bits",
    "parallel_co_attention",
    "philox_normal",
    "q_sample",
    "ranking_loss",
    "sandwich_layer_norm",
    "scaled_dot_product_attention",
    "sigmoid_contrastive",
    "unpack_bits",
]
