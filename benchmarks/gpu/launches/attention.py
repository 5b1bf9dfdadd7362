"""Attention: masks, biases and dropout by head size and dtype."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu.launches import Launch, dtype_name
from xmkern.ops.attention import triton as launcher

CAUSAL = [2, -(2**62), 0]
L = 1024

CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "causal": lambda: {"mask": CAUSAL},
    "prefix": lambda: {"mask": [3, 0, *CAUSAL, 1], "tensors": (torch.zeros(2, dtype=torch.int64),)},
    "grid": lambda: {"mask": [4, 256, 32, 24, -1, 1, -1, 1, *CAUSAL, 0]},
    "segments": lambda: {"mask": [5, 0, 0, *CAUSAL, 0], "tensors": (torch.zeros(1, L, dtype=torch.int64),)},
    "dense": lambda: {"mask": [6, 0], "tensors": (torch.zeros(1, 1, L, L, dtype=torch.bool),)},
    "bias": lambda: {"bias": torch.zeros(1, 4, L, L)},
    "row": lambda: {"bias": torch.zeros(2, 1, 1, L)},
    "column": lambda: {"bias": torch.zeros(1, 4, L, 1)},
    "toeplitz": lambda: {"bias": torch.zeros(1, 4, 2 * L - 1)},
    "buckets": lambda: {"bias": torch.zeros(1, 4, 32), "buckets": torch.zeros(L, L, dtype=torch.int32)},
    "dropout": lambda: {"dropout_p": 0.1, "mask": CAUSAL},
    "everything": lambda: {"dropout_p": 0.1, "bias": torch.zeros(1, 4, L, L), "mask": CAUSAL},
    "short": lambda: {"L": 50, "S": 50},
    "few queries": lambda: {"Hk": 2, "L": 12, "mask": CAUSAL},
    "few keys": lambda: {"S": 40},
    "decoding": lambda: {"H": 32, "L": 1, "S": 8192, "backward": False},
}
USUAL = {("causal", 64), ("bias", 64), ("segments", 64), ("decoding", 64)}
HARD = ("causal", "everything", "few queries")


def launches(chip: int) -> Iterator[Launch]:
    for name, call in CALLS.items():
        for D in (64, 128):
            yield _launch(name, call, D, torch.bfloat16, usual=(name, D) in USUAL)
    for name in HARD:
        yield _launch(name, CALLS[name], 256, torch.bfloat16)
        for D in (64, 128) if chip == 86 else (64, 128, 256):
            yield _launch(name, CALLS[name], D, torch.float32)
    yield _launch("causal", CALLS["causal"], 64, torch.float16)
    for D in (40, 20):  # no powers of two; of strides that rows are read in vectors by, and that they are not
        yield _launch("plain", CALLS["plain"], D, torch.bfloat16, usual=D == 40)


def _launch(name: str, call: Callable[[], dict[str, Any]], D: int, dtype: torch.dtype, usual: bool = False) -> Launch:
    title = f"{name}, heads of {D}, {dtype_name(dtype)}"
    return Launch(title, lambda: run(D=D, dtype=dtype, **call()), usual)


def run(
    B: int = 2,
    H: int = 4,
    Hk: int = 4,
    L: int = L,
    S: int = L,
    D: int = 64,
    dtype: torch.dtype = torch.bfloat16,
    mask: list[int] | None = None,
    tensors: tuple[torch.Tensor, ...] = (),
    bias: torch.Tensor | None = None,
    buckets: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    backward: bool = True,
) -> None:
    query, key, value = (torch.empty(B, h, n, D, dtype=dtype) for h, n in ((H, L), (Hk, S), (Hk, S)))
    rest = (mask or [], list(tensors), bias, buckets, 0.1, dropout_p, torch.tensor([1]) if dropout_p else None)
    out, lse = launcher.attention(query, key, value, *rest)
    if backward:
        launcher.attention_backward(out, None, query, key, value, out, lse, *rest, bias is not None)
