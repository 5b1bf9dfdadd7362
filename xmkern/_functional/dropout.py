"""The seed of a call's dropout."""

import torch
from torch import Tensor


def dropout_seed(dropout_p: float, device: torch.device, count: int = 1) -> Tensor:
    """-> int64 [count], drawn from torch's generator of the device"""
    if not isinstance(dropout_p, int | float):
        raise TypeError(f"dropout_p must be a number, not {type(dropout_p).__name__}")
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"dropout_p must be 0 to 1, not {dropout_p}")
    return torch.randint(-(2**63), 2**63 - 1, (count,), device=device)
