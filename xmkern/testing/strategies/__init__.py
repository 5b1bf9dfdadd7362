"""Hypothesis strategies: each draws the keyword arguments of the call of ``xmkern.functional`` with its name.

They lean towards the corners: empty axes, ties, lengths that are no multiple of anything, strided and sliced tensors.
"""

from xmkern.testing.strategies.attention import attention, mask
from xmkern.testing.strategies.damsm import damsm_scores
from xmkern.testing.strategies.hamming import (
    codes,
    hamming_distance,
    hamming_range,
    hamming_topk,
    pack_bits,
    unpack_bits,
)
from xmkern.testing.strategies.transport import optimal_transport_alignment

__all__ = [
    "attention",
    "codes",
    "damsm_scores",
    "hamming_distance",
    "hamming_range",
    "hamming_topk",
    "mask",
    "optimal_transport_alignment",
    "pack_bits",
    "unpack_bits",
]
