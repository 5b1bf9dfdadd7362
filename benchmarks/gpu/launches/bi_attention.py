"""Attention both ways, of each form and of several depths."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.launches import Launch, dtype_name
from xmkern.ops.bi_attention import triton as launcher

FORMS = {"softmax": (False, True), "tanh": (True, False), "both": (True, True), "neither": (False, False)}


def launches(chip: int) -> Iterator[Launch]:
    for dtype in (torch.bfloat16, torch.float32):
        for form, (tanh, softmax) in FORMS.items():
            D = {"softmax": 512, "tanh": 20, "both": 100, "neither": 64}[form]
            name = f"{form}, depth {D}, {dtype_name(dtype)}"
            usual = form == "softmax" and dtype == torch.bfloat16
            yield Launch(name, partial(run, D=D, dtype=dtype, tanh=tanh, softmax=softmax), usual)
        for L, S in ((197, 40), (16, 16), (1, 300)):
            yield Launch(f"{L} x {S} rows, {dtype_name(dtype)}", partial(run, L, S, dtype=dtype, masked=False))


def run(
    L: int = 196,
    S: int = 26,
    D: int = 512,
    dtype: torch.dtype = torch.bfloat16,
    masked: bool = True,
    tanh: bool = False,
    softmax: bool = True,
) -> None:
    a, b = torch.zeros(16, 1, L, D, dtype=dtype), torch.zeros(16, 1, S, D, dtype=dtype)
    masks = [torch.ones(16, n, dtype=torch.bool) if masked else None for n in (L, S)]
    results = launcher.bi_attention(a, b, a, b, *masks, 0.1, tanh, softmax)
    launcher.bi_attention_backward(a, b, a, b, a, b, *masks, *results, 0.1, tanh, softmax)
