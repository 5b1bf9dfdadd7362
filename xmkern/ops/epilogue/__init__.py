"""What follows a projection in a transformer, in one pass over memory. The maths is in README.md of this folder."""

from xmkern.ops.epilogue.op import (
    add_norm,
    add_norm_at_once,
    bias_activation,
    bias_activation_at_once,
    gated_residual,
    gated_residual_at_once,
)

__all__ = [
    "add_norm", "add_norm_at_once", "bias_activation", "bias_activation_at_once", "gated_residual",
    "gated_residual_at_once",
]  # fmt: skip
