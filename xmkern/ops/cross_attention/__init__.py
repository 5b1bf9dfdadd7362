"""Several attentions in one call, each over several sources of keys. The maths is in README.md of this folder."""

from xmkern.ops.cross_attention.op import cross_attention, cross_attention_backward, cross_attention_forward
from xmkern.ops.cross_attention.problem import Source

__all__ = ["Source", "cross_attention", "cross_attention_backward", "cross_attention_forward"]
