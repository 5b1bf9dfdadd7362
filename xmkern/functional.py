"""The public, stateless calls. They check their arguments, then call an operator.

Every call takes ``backend``: ``"auto"`` picks the fastest that can serve it; a name (``"cpu"``, ``"triton"``,
``"reference"``, ...) forces one, and raises the reason if that one cannot.
"""

from xmkern._functional.attention import attention, merge_attention, scaled_dot_product_attention
from xmkern._functional.damsm import damsm_loss, damsm_scores
from xmkern._functional.hamming import hamming_distance, hamming_range, hamming_topk, pack_bits, unpack_bits
from xmkern._functional.transport import optimal_transport_alignment

__all__ = [
    "attention",
    "damsm_loss",
    "damsm_scores",
    "hamming_distance",
    "hamming_range",
    "hamming_topk",
    "merge_attention",
    "optimal_transport_alignment",
    "pack_bits",
    "scaled_dot_product_attention",
    "unpack_bits",
]
