"""What follows a projection in a transformer, in one pass over memory. The maths is in README.md of this folder."""

from xmkern.ops.epilogue.op import add_norm, bias_activation, gated_residual

__all__ = ["add_norm", "bias_activation", "gated_residual"]
