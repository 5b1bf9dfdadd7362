"""Hamming distances and searches, of codes that are words and of codes that are not."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.launches import Launch
from xmkern.ops.hamming import triton as launcher


def launches(chip: int) -> Iterator[Launch]:
    for width in (8, 33, 512):
        yield Launch(f"distances of {8 * width} bits", partial(distances, width), usual=width == 8)
    for width, k in ((8, 10), (8, 64), (33, 64), (16, 256)):
        yield Launch(f"{k} nearest of {8 * width} bits", partial(nearest, width, k), usual=k != 64)


def distances(width: int) -> None:
    codes = torch.zeros(300, width, dtype=torch.uint8)
    launcher.hamming_distance(codes, codes)


def nearest(width: int, k: int) -> None:
    launcher.hamming_topk(*(torch.zeros(n, width, dtype=torch.uint8) for n in (300, 5000)), k)
