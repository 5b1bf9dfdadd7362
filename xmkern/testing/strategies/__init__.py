"""Hypothesis strategies: each draws the keyword arguments of the call of ``xmkern.functional`` with its name.

They lean towards the corners: empty axes, ties, lengths that are no multiple of anything, strided and sliced tensors.
"""

from xmkern.testing.strategies.attention import attention, mask
from xmkern.testing.strategies.hamming import (
    codes,
    hamming_distance,
    hamming_range,
    hamming_topk,
    pack_bits,
    unpack_bits,
)

__all__ = [
    "attention",
    "codes",
    "hamming_distance",
    "hamming_range",
    "hamming_topk",
    "mask",
    "pack_bits",
    "unpack_bits",
]
