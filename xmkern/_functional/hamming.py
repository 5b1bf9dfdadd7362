"""The public calls of Hamming search."""

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from xmkern.ops import hamming as _hamming

__all__ = ["hamming_distance", "hamming_range", "hamming_topk", "pack_bits", "unpack_bits"]

# A torch tensor or a numpy array; the results are of the kind that came in.
Array = TypeVar("Array", Tensor, np.ndarray)

MAX_BITS = 4096


def pack_bits(x: Array, *, backend: str = "auto") -> Array:
    """Packs signs into bytes, eight a byte, the first in the least significant bit (numpy's ``bitorder="little"``).

    Args:
        x: [N, K] numbers (``x >= 0``, zero included, gives 1; NaN gives 0) or bools (True gives 1).

    Returns:
        uint8 [N, ceil(K / 8)]; the bits past K are 0.
    """
    tensor = _matrix("x", x)
    if tensor.is_complex():
        raise TypeError(f"x must hold real numbers or bools, not {tensor.dtype}")
    if not 1 <= tensor.shape[1] <= MAX_BITS:
        raise ValueError(f"x must have 1 to {MAX_BITS} columns, one a bit, not {tensor.shape[1]}")
    return _like(x, _hamming.pack_bits(tensor, backend=backend))


def unpack_bits(codes: Array, bits: int, *, backend: str = "auto") -> Array:
    """The inverse of :func:`pack_bits`: codes uint8 [N, W] -> bool [N, bits], with bits <= 8 W."""
    tensor = _codes("codes", codes)
    if not 1 <= bits <= 8 * tensor.shape[1]:
        raise ValueError(f"bits must be 1 to {8 * tensor.shape[1]} for codes of {tensor.shape[1]} bytes, not {bits}")
    return _like(codes, _hamming.unpack_bits(tensor, bits, backend=backend))


def hamming_distance(a: Array, b: Array, *, backend: str = "auto") -> Array:
    """The number of differing bits of all pairs: a uint8 [N, W], b uint8 [M, W] -> int32 [N, M]."""
    left, right = _code_pair("a", a, "b", b)
    return _like(a, _hamming.hamming_distance(left, right, backend=backend))


def hamming_topk(queries: Array, codes: Array, k: int, *, backend: str = "auto") -> tuple[Array, Array]:
    """The k nearest codes of each query, exactly, nearest first; equal distances by the smaller index.

    Args:
        queries: uint8 [Q, W], packed bits.
        codes: uint8 [N, W].
        k: how many; where k > N, the rest of a row is distance -1 and index -1.

    Returns:
        distances int32 [Q, k], in bits, and indices int64 [Q, k] into ``codes``.
    """
    left, right = _code_pair("queries", queries, "codes", codes)
    if k < 0:
        raise ValueError(f"k must not be negative, not {k}")
    distances, indices = _hamming.hamming_topk(left, right, k, backend=backend)
    return _like(queries, distances), _like(queries, indices)


def hamming_range(queries: Array, codes: Array, radius: int, *, backend: str = "auto") -> tuple[Array, Array, Array]:
    """All codes within a distance of each query, nearest first; equal distances by the smaller index.

    Args:
        queries: uint8 [Q, W], packed bits.
        codes: uint8 [N, W].
        radius: the largest distance that counts, in bits; a negative one finds nothing.

    Returns:
        lims int64 [Q + 1], distances int32 [R], indices int64 [R]: query q's neighbours lie at lims[q] : lims[q + 1].
    """
    left, right = _code_pair("queries", queries, "codes", codes)
    radius = math.floor(max(-1, min(radius, 8 * left.shape[1])))
    found = _hamming.hamming_range(left, right, radius, backend=backend)
    lims, distances, indices = (_like(queries, part) for part in found)
    return lims, distances, indices


def _matrix(name: str, x: Any) -> Tensor:
    if isinstance(x, np.ndarray):
        x = x.astype(x.dtype.newbyteorder("="), copy=False)
        fits = x.flags.writeable and all(stride >= 0 and stride % x.itemsize == 0 for stride in x.strides)
        x = torch.from_numpy(x if fits else x.copy())  # torch takes no other
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch tensor or a numpy array, not {type(x).__name__}")
    if x.ndim != 2:
        raise ValueError(f"{name} must have two axes, [rows, columns], not shape {tuple(x.shape)}")
    return x


def _codes(name: str, x: Any) -> Tensor:
    tensor = _matrix(name, x)
    if tensor.dtype != torch.uint8:
        raise TypeError(f"{name} must be packed bits in uint8 (see pack_bits), not {tensor.dtype}")
    if not 1 <= tensor.shape[1] <= MAX_BITS // 8:
        raise ValueError(f"{name} must have 1 to {MAX_BITS // 8} bytes a row, not {tensor.shape[1]}")
    return tensor


def _code_pair(name_a: str, a: Any, name_b: str, b: Any) -> tuple[Tensor, Tensor]:
    left, right = _codes(name_a, a), _codes(name_b, b)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"{name_b} must have as many bytes a row as {name_a} ({left.shape[1]}), not {right.shape[1]}")
    if left.device != right.device:
        raise ValueError(f"{name_b} must be on {left.device} as {name_a} is, not on {right.device}")
    return left, right


def _like(given: Array, result: Tensor) -> Array:
    return result.numpy() if isinstance(given, np.ndarray) else result
