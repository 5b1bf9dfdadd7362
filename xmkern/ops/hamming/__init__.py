"""Hamming search over packed binary codes. The maths is in README.md of this folder."""

from xmkern.ops.hamming.op import hamming_distance, hamming_range, hamming_topk, pack_bits, unpack_bits

__all__ = ["hamming_distance", "hamming_range", "hamming_topk", "pack_bits", "unpack_bits"]
