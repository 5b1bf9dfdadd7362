"""Matching of words and regions (DAMSM), fused over all pairs of captions and images. The maths is in README.md."""

from xmkern.ops.damsm.op import word_region_cosines

__all__ = ["word_region_cosines"]
