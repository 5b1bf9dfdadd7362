"""Attention over several sources: attention's kernels, and the merging of sources."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.launches import Launch, dtype_name
from xmkern.ops.cross_attention import triton as launcher


def launches(chip: int) -> Iterator[Launch]:
    for dtype in (torch.bfloat16, torch.float32):
        yield Launch(f"text beside an image, {dtype_name(dtype)}", partial(run, dtype))


def run(dtype: torch.dtype) -> None:
    """GLIDE's text beside its image, forward and backward."""
    query, text, image = (torch.empty(2, 8, n, 64, dtype=dtype) for n in (256, 128, 256))
    keys, masks = [text, image], [2, 1, 3, 0, 0, 0]
    rest = ([2], masks, [torch.zeros(2, dtype=torch.int64)], [None] * 2, [None] * 2, [0.125], 0.0, None)
    out, lse = launcher.cross_attention([query], keys, keys, *rest)
    launcher.cross_attention_backward([out], [None], [query], keys, keys, [out], [lse], *rest, [False, False])
