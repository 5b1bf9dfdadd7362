"""The public, stateless calls. They check their arguments, then call an operator.

Every call takes ``backend``: ``"auto"`` picks the fastest that can serve it; a name (``"cpu"``, ``"triton"``,
``"reference"``, ...) forces one, and raises the reason if that one cannot.
"""

from xmkern._functional.attention import attention, merge_attention, scaled_dot_product_attention
from xmkern._functional.contrastive import info_nce, sigmoid_contrastive
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
from xmkern._functional.hamming import hamming_distance, hamming_range, hamming_topk, pack_bits, unpack_bits
from xmkern._functional.hashing import bitwise_max_margin, cosine_max_margin, hash_likelihood
from xmkern._functional.late_interaction import late_interaction_info_nce, max_similarity
from xmkern._functional.multi_positive import mil_nce, multi_positive_info_nce
from xmkern._functional.ranking import ranking_loss
from xmkern._functional.transport import optimal_transport_alignment

__all__ = [
    "DynamicThreshold",
    "StepCoefficients",
    "attention",
    "bitwise_max_margin",
    "classifier_guidance",
    "cosine_max_margin",
    "damsm_loss",
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
    "max_similarity",
    "merge_attention",
    "mil_nce",
    "multi_positive_info_nce",
    "optimal_transport_alignment",
    "pack_bits",
    "philox_normal",
    "q_sample",
    "ranking_loss",
    "scaled_dot_product_attention",
    "sigmoid_contrastive",
    "unpack_bits",
]
