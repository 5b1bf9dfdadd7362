"""Attention both ways from one matrix of affinities. The maths is in README.md."""

from xmkern.ops.bi_attention.op import bi_attention
from xmkern.ops.bi_attention.pool import additive_pool

__all__ = ["additive_pool", "bi_attention"]
