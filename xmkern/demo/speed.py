"""What a search and a step of the loss cost: xmkern beside eager PyTorch and, where it is installed, FAISS, on the same
data in the same process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from xmkern.functional import hamming_topk, multi_positive_info_nce

Search = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Timing:
    """Median milliseconds of one call; ``agrees`` says whether its distances are those of eager PyTorch."""

    name: str
    milliseconds: float
    agrees: bool


def eager_topk(queries: Tensor, codes: Tensor, k: int) -> Tensor:
    """Distances int64 ``[Q, k]`` of 64-bit codes held as int64: xor and a bit count by halves, in plain torch."""
    x = queries[:, None] ^ codes[None, :]
    x = x - ((x >> 1) & 0x5555555555555555)
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((x * 0x0101010101010101) >> 56).topk(k, dim=1, largest=False).values


def enlarge(codes: Tensor, size: int, seed: int = 0) -> Tensor:
    """A gallery of ``size`` codes: real ones uint8 ``[N, 8]``, repeated, each bit flipped with a chance of 1 in 8."""
    rng = np.random.default_rng(seed)
    base = codes.numpy()[rng.integers(0, len(codes), size)]
    # The AND of three random bytes has each bit set with a chance of 1 in 8.
    a, b, c = rng.integers(0, 256, (3, *base.shape), dtype=np.uint8)
    return torch.from_numpy(base ^ (a & b & c))


def faiss_searches(codes: Tensor) -> dict[str, Search]:
    """FAISS over ``codes`` in both of its modes; nothing where it is not installed."""
    try:
        import faiss
    except ImportError:
        return {}
    faiss.omp_set_num_threads(torch.get_num_threads())

    def search(use_heap: bool) -> Search:
        index: Any = faiss.IndexBinaryFlat(8 * codes.shape[1])
        index.use_heap = use_heap
        index.add(codes.numpy())
        return lambda queries, _, k: torch.from_numpy(index.search(queries.numpy(), k)[0])

    return {"FAISS, heap": search(True), "FAISS, counting": search(False)}


def time_search(codes: Tensor, queries: Tensor, k: int = 10, repeats: int = 5) -> list[Timing]:
    """Times each peer in turn, ``repeats`` rounds, after checking that all find the same distances.

    Args:
        codes: packed codes of 64 bits, uint8 ``[N, 8]``.
        queries: uint8 ``[Q, 8]``.
    """
    words, query_words = codes.view(torch.int64).flatten(), queries.view(torch.int64).flatten()
    peers: dict[str, Search] = {
        "xmkern": lambda q, c, k: hamming_topk(q, c, k)[0],
        "eager PyTorch": lambda q, c, k: eager_topk(query_words, words, k),
        **faiss_searches(codes),
    }
    want = eager_topk(query_words, words, k)
    agrees = {name: torch.equal(search(queries, codes, k).long(), want) for name, search in peers.items()}
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(repeats):
        for name, search in peers.items():
            start = time.perf_counter()
            search(queries, codes, k)
            times[name].append(1e3 * (time.perf_counter() - start))
    return [Timing(name, median(times[name]), agrees[name]) for name in peers]


@dataclass(frozen=True)
class Step:
    """Of one loss, forward and backward: median milliseconds, and megabytes above those before (None: not known)."""

    name: str
    milliseconds: float
    megabytes: float | None
    agrees: bool


def eager_loss(picture: Tensor, text: Tensor, scale: float, ids: Tensor) -> Tensor:
    """InfoNCE with several positives, both ways, by a matrix of all pairs."""
    scores = scale * picture @ text.T
    same = ids[:, None] == ids
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


def time_loss(picture: Tensor, text: Tensor, ids: Tensor, scale: float = 20.0, repeats: int = 5) -> list[Step]:
    """Times each loss in turn, ``repeats`` rounds, after checking that both find the same value and gradients.

    Args:
        picture: unit vectors ``[B, E]``.
        text: likewise.
        ids: int64 ``[B]``, which picture each row shows.
    """
    picture, text = (each.detach().requires_grad_() for each in (picture, text))

    def step(loss: Tensor) -> list[Tensor]:
        return [loss.detach(), *torch.autograd.grad(loss, [picture, text])]

    peers: dict[str, Callable[[], list[Tensor]]] = {
        "xmkern": lambda: step(multi_positive_info_nce(picture, text, scale, x_ids=ids)),
        "eager PyTorch": lambda: step(eager_loss(picture, text, scale, ids)),
    }
    want = peers["eager PyTorch"]()
    agrees = {
        name: all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(call(), want, strict=True))
        for name, call in peers.items()
    }
    memory = {name: _peak_megabytes(call) for name, call in peers.items()}
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(repeats):
        for name, call in peers.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return [Step(name, median(times[name]), memory[name], agrees[name]) for name in peers]


def _peak_megabytes(call: Callable[[], Any]) -> float | None:
    """How far the process grows meanwhile, by the system's own count; None where it keeps none."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _resident("VmRSS")
        call()
        return max(_resident("VmHWM") - before, 0.0)
    except OSError:
        return None


def _resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024
