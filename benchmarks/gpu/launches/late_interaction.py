"""Late interaction, by numbers of tokens and depth."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.launches import Launch, dtype_name
from xmkern.ops.late_interaction import triton as launcher


def launches(chip: int) -> Iterator[Launch]:
    for dtype in (torch.bfloat16, torch.float32):
        kind = dtype_name(dtype)
        yield Launch(f"49 x 49 tokens, {kind}", partial(run, dtype=dtype), usual=dtype == torch.bfloat16)
        for R, T in ((49, 32), (197, 77), (16, 16), (1, 300)):
            yield Launch(f"{R} x {T} tokens, {kind}", partial(run, R=R, T=T, dtype=dtype, masked=False))
        for D in (100, 20):
            yield Launch(f"depth {D}, {kind}", partial(run, B=8, N=12, D=D, dtype=dtype, both=False))


def run(
    B: int = 64,
    N: int = 64,
    R: int = 49,
    T: int = 49,
    D: int = 256,
    dtype: torch.dtype = torch.bfloat16,
    masked: bool = True,
    both: bool = True,
) -> None:
    x, y = torch.zeros(B, R, D, dtype=dtype), torch.zeros(N, T, D, dtype=dtype)
    masks = [torch.ones(each.shape[:2], dtype=torch.bool) if masked else None for each in (x, y)]
    x_scores, y_scores, *winners = launcher.max_similarity(x, y, *masks, True, both)
    launcher.max_similarity_backward(x_scores, y_scores if both else None, x, y, *masks, *winners, True, True, True)
