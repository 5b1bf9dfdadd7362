"""How maps lie in memory."""

import torch
from torch import Tensor


def by_place(maps: Tensor) -> Tensor:
    """[B, C, H, W] as it was, but all channels of a place side by side.

    What follows keeps it so, and convolutions by channel on the CPU (EfficientNet) take half the time for it.
    """
    return maps.contiguous(memory_format=torch.channels_last)
