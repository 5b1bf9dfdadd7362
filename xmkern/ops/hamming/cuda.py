"""Launches the CUDA kernels, where the package was built with them: makes the memory, passes addresses."""

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def _module() -> Any:
    """The extension's functions, or None where it was not built (``XMKERN_CUDA=ON``)."""
    try:
        return importlib.import_module("xmkern._cuda").hamming
    except ImportError:
        return None


def refuses(*args: object) -> str | None:
    """Why these arguments of ``hamming_distance`` or ``hamming_topk`` cannot be served, or None."""
    module = _module()
    if module is None:
        return "xmkern was built without its CUDA extension (build it with -DXMKERN_CUDA=ON)"
    tensors = [a for a in args if isinstance(a, Tensor)]
    if any(t.device.type != "cuda" for t in tensors) or torch.version.cuda is None:
        return "the tensors are not on an NVIDIA GPU"
    if any(torch.cuda.get_device_capability(t.device) < (8, 0) for t in tensors):
        return "the GPU is older than compute capability 8.0"
    if any(t.shape[1] > module.max_bytes for t in tensors):
        return f"codes are longer than {8 * module.max_bytes} bits"
    if any(isinstance(k, int) and k > module.max_k for k in args):
        return f"k is greater than {module.max_k}"
    return None


def hamming_distance(a: Tensor, b: Tensor) -> Tensor:
    """a uint8 [N, W], b uint8 [M, W] -> int32 [N, M]: the number of bits in which they differ."""
    a, b = a.contiguous(), b.contiguous()
    out = torch.empty(len(a), len(b), dtype=torch.int32, device=a.device)
    with torch.cuda.device(a.device):
        _module().distances(*_codes(a), *_codes(b), a.shape[1], out.data_ptr(), _stream())
    return out


def hamming_topk(queries: Tensor, codes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """queries uint8 [Q, W], codes uint8 [N, W] -> the k nearest: distances int32 [Q, k], indices int64 [Q, k].

    Rows are ordered by (distance, index); where ``k > N`` the rest of a row is -1 and -1.
    """
    queries, codes = queries.contiguous(), codes.contiguous()
    device = queries.device
    distances = torch.empty(len(queries), k, dtype=torch.int32, device=device)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=device)
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    spans = _module().spans(len(queries), len(codes), processors)
    found = torch.empty(len(queries), spans, k, dtype=torch.int64, device=device)
    with torch.cuda.device(device):
        _module().topk(
            *_codes(queries), *_codes(codes), queries.shape[1], k, spans,
            found.data_ptr(), distances.data_ptr(), indices.data_ptr(), _stream(),
        )  # fmt: skip
    return distances, indices


def _codes(x: Tensor) -> tuple[int, int]:
    return x.data_ptr(), len(x)


def _stream() -> int:
    return torch.cuda.current_stream().cuda_stream
