"""What a retrieval is worth."""

from xmkern.metrics.ranking import mean_average_precision, recall_at_k

__all__ = ["mean_average_precision", "recall_at_k"]
