"""Late interaction: token-wise similarities, the largest for each token. The maths is in README.md of this folder."""

from xmkern.ops.late_interaction.op import max_similarity, max_similarity_backward, max_similarity_forward

__all__ = ["max_similarity", "max_similarity_backward", "max_similarity_forward"]
