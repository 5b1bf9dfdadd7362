"""What dropout by Philox's words is given: csrc/core/philox.h, and ``keep_mask`` in attention's reference."""

from torch import Tensor


def threshold_of(dropout_p: float) -> int:
    """Words of 32 bits below it drop their element."""
    return min(round(dropout_p * 2**32), 2**32 - 1)


def kept_scale(dropout_p: float) -> float:
    """What is kept is multiplied with it."""
    return 1 / (1 - dropout_p) if dropout_p < 1 else 0.0


def native_dropout(dropout_p: float, seed: Tensor) -> tuple[int, int, float]:
    """As the bindings take it: threshold, seed (int64 [1]) and scale."""
    return threshold_of(dropout_p), int(seed) & (2**64 - 1), kept_scale(dropout_p)


def is_elsewhere(seed: Tensor | None) -> bool:
    """Whether it lies on another device, for which whoever reads it here would have to wait."""
    return seed is not None and not seed.is_cpu
