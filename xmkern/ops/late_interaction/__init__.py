"""Late interaction: token-wise similarities, the largest for each token. The maths is in README.md of this folder."""

from xmkern.ops.late_interaction.op import max_similarity, max_similarity_backward, max_similarity_forward
from xmkern.ops.late_interaction.softmax import Statistics, bytes_of_pairs, score_statistics, statistics

__all__ = [
    "Statistics",
    "bytes_of_pairs",
    "max_similarity",
    "max_similarity_backward",
    "max_similarity_forward",
    "score_statistics",
    "statistics",
]
