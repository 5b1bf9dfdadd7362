"""What a retrieval, a caption and generated pictures are worth."""

from xmkern.metrics.captions import Cider, cider
from xmkern.metrics.generation import frechet_distance, picture_statistics, r_precision
from xmkern.metrics.ranking import mean_average_precision, recall_at_k

__all__ = [
    "Cider",
    "cider",
    "frechet_distance",
    "mean_average_precision",
    "picture_statistics",
    "r_precision",
    "recall_at_k",
]
