"""In what operators compute."""

import torch


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of sums, scores and statistics of numbers of a dtype: float32, and float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
