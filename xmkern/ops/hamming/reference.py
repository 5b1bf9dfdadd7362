"""What Hamming search means, in plain PyTorch.

Bits are packed least significant first, as by ``numpy.packbits(bitorder="little")``.
"""

import torch
from torch import Tensor

Found = tuple[Tensor, Tensor]


def pack_bits(x: Tensor) -> Tensor:
    """x [N, K] -> uint8 [N, ceil(K / 8)]; a bit is set where x is True, or not less than zero."""
    bits = torch.nn.functional.pad(signs(x), (0, -x.shape[1] % 8))
    weights = 2 ** torch.arange(8, device=x.device)
    return (bits.view(len(bits), bits.shape[1] // 8, 8) * weights).sum(-1).to(torch.uint8)


def signs(x: Tensor) -> Tensor:
    """bool, of the shape of x: True where x is True, or not less than zero."""
    if x.dtype == torch.bool:
        return x
    # Without signs there is nothing to compare, and beyond uint8 torch cannot.
    return x >= 0 if x.dtype.is_signed else torch.ones_like(x, dtype=torch.bool)


def unpack_bits(codes: Tensor, bits: int) -> Tensor:
    """codes uint8 [N, W] -> bool [N, bits]"""
    single = (codes[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=codes.device)) & 1
    return single.flatten(1)[:, :bits].bool()


def hamming_distance(a: Tensor, b: Tensor) -> Tensor:
    """a uint8 [N, W], b uint8 [M, W] -> int32 [N, M]: the number of bits in which they differ."""
    ones = unpack_bits(torch.arange(256, dtype=torch.uint8, device=a.device)[:, None], 8).sum(1, dtype=torch.int32)
    out = torch.zeros(len(a), len(b), dtype=torch.int32, device=a.device)
    for column_a, column_b in zip(a.unbind(1), b.unbind(1), strict=True):
        out += ones[(column_a[:, None] ^ column_b[None, :]).int()]
    return out


def hamming_topk(queries: Tensor, codes: Tensor, k: int) -> Found:
    """-> distances int32 [Q, k], indices int64 [Q, k], by (distance, index); -1 and -1 past the last code."""
    distances, indices = hamming_distance(queries, codes).sort(dim=1, stable=True)
    missing = max(0, k - len(codes))
    pad = torch.nn.functional.pad
    return pad(distances[:, :k], (0, missing), value=-1), pad(indices[:, :k], (0, missing), value=-1)


def hamming_range(queries: Tensor, codes: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """-> lims int64 [Q + 1], distances int32, indices int64: query q's at lims[q] : lims[q + 1]."""
    distances, indices = hamming_distance(queries, codes).sort(dim=1, stable=True)
    inside = distances <= radius
    lims = torch.nn.functional.pad(inside.sum(1).cumsum(0), (1, 0))
    return lims, distances[inside], indices[inside]
