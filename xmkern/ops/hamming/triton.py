"""Launches the Triton kernels: picks the tiles, makes the memory. Triton is imported by the first call."""

import importlib.util
from typing import Any

import torch
from torch import Tensor

from xmkern.ops import gpu, tuning
from xmkern.ops.gpu import cdiv, power_of_two

MAX_K = 256  # the running top-k of a program lives in registers
MAX_WIDTH = 512
_MAX_CODES = 1 << 40  # an index has 40 bits in a score


def refuses(*args: object) -> str | None:
    """Why these arguments of ``hamming_distance`` or ``hamming_topk`` cannot be served, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    tensors = [a for a in args if isinstance(a, Tensor)]
    if not gpu.interpreted() and any(t.device.type != "cuda" for t in tensors):
        return "the tensors are not on a CUDA GPU and Triton's interpreter is off (TRITON_INTERPRET=1)"
    if any(t.shape[1] > MAX_WIDTH for t in tensors):
        return f"codes are longer than {8 * MAX_WIDTH} bits"
    if any(len(t) > _MAX_CODES for t in tensors):
        return "there are more than 2^40 codes"
    if any(isinstance(k, int) and k > MAX_K for k in args):
        return f"k is greater than {MAX_K}"
    return None


def hamming_distance(a: Tensor, b: Tensor) -> Tensor:
    """a uint8 [N, W], b uint8 [M, W] -> int32 [N, M]: the number of bits in which they differ."""
    out = torch.empty(len(a), len(b), dtype=torch.int32, device=a.device)
    if out.numel() == 0:
        return out
    row = tuning.chosen("hamming.distance", gpu.chip_of(a.device))
    programs = cdiv(len(a), row["rows"]) * cdiv(len(b), row["columns"])
    a_words, b_words, aligned = _words(a, b)
    with gpu.on(a):
        gpu.launch(
            _kernels().distance_kernel, programs, a_words, b_words, out, len(a), len(b),
            WIDTH=a.shape[1], ALIGNED=aligned, A_TILE=row["rows"], B_TILE=row["columns"], num_warps=row["warps"],
        )  # fmt: skip
    return out


def hamming_topk(queries: Tensor, codes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """queries uint8 [Q, W], codes uint8 [N, W] -> the k nearest: distances int32 [Q, k], indices int64 [Q, k].

    Rows are ordered by (distance, index); where ``k > N`` the rest of a row is -1 and -1. The distances of a query to
    all codes are never written: spans of codes are searched side by side, each keeps its best k, and a second, small
    kernel merges them.
    """
    distances = torch.empty(len(queries), k, dtype=torch.int32, device=queries.device)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    if distances.numel() == 0:
        return distances, indices
    kept = max(2, power_of_two(k))  # what the sorting network takes
    chip = gpu.chip_of(queries.device)
    row, merge = tuning.chosen("hamming.topk", chip, k=kept), tuning.chosen("hamming.merge", chip)
    groups = cdiv(len(queries), row["queries"])
    span = _span(len(codes), groups, row["codes"], queries.device)
    spans = max(1, cdiv(len(codes), span))
    found = torch.empty(len(queries), spans * kept, dtype=torch.int64, device=queries.device)
    query_words, code_words, aligned = _words(queries, codes)
    with gpu.on(queries):
        gpu.launch(
            _kernels().span_topk_kernel, groups * spans,
            query_words, code_words, found, len(queries), len(codes), span, spans,
            WIDTH=queries.shape[1], ALIGNED=aligned, Q_TILE=row["queries"], N_TILE=row["codes"], K=kept,
            num_warps=row["warps"],
        )  # fmt: skip
        gpu.launch(
            _kernels().merge_spans_kernel, len(queries), found, distances, indices, spans * kept, k,
            TILE=max(merge["scores"], kept), K=kept, num_warps=merge["warps"],
        )  # fmt: skip
    return distances, indices


def _words(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, bool]:
    """The same codes as 32-bit words where length and address allow it; else as bytes, which the kernel assembles."""
    aligned = a.shape[1] % 4 == 0
    a, b = a.contiguous().view(-1), b.contiguous().view(-1)
    if not aligned or any(x.data_ptr() % 4 or x.storage_offset() % 4 for x in (a, b)):
        return a, b, False
    return a.view(torch.int32), b.view(torch.int32), True


def _span(codes: int, groups: int, tile: int, device: torch.device) -> int:
    """Codes a program scans: few enough to fill the GPU several times over, whole tiles, and never so few that the
    merge of the spans outweighs the scan."""
    wanted = cdiv(8 * gpu.chip_of(device).processors, groups)
    return max(4, cdiv(cdiv(codes, wanted), tile)) * tile


def _kernels() -> Any:
    from xmkern.ops.hamming import triton_kernels

    return triton_kernels
