"""What a retrieval, a caption is worth."""

from xmkern.metrics.captions import Cider, cider
from xmkern.metrics.ranking import mean_average_precision, recall_at_k

__all__ = ["Cider", "cider", "mean_average_precision", "recall_at_k"]
