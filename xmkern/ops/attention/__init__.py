"""Fused attention, forward and backward. The maths is in README.md of this folder."""

from xmkern.ops.attention.op import attention, attention_at_once, attention_backward, attention_forward

__all__ = ["attention", "attention_at_once", "attention_backward", "attention_forward"]
