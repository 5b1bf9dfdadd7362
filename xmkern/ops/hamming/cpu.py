"""Launches the C++ kernels: makes the memory, passes addresses."""

import torch
from torch import Tensor

from xmkern import native
from xmkern.ops.hamming.reference import signs


def refuses(*args: object) -> str | None:
    for arg in args:
        if isinstance(arg, Tensor) and arg.device.type != "cpu":
            return f"the tensors are on {arg.device}"
    return native.why_missing()


def pack_bits(x: Tensor) -> Tensor:
    flags = signs(x).contiguous()
    rows, bits = flags.shape
    out = torch.empty(rows, (bits + 7) // 8, dtype=torch.uint8, device="cpu")
    native.module().hamming.pack(flags.data_ptr(), rows, bits, out.data_ptr(), torch.get_num_threads())
    return out


def hamming_distance(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.contiguous(), b.contiguous()
    out = torch.empty(len(a), len(b), dtype=torch.int32, device="cpu")
    native.module().hamming.distances(*_codes(a), *_codes(b), a.shape[1], out.data_ptr(), torch.get_num_threads())
    return out


def hamming_topk(queries: Tensor, codes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    queries, codes = queries.contiguous(), codes.contiguous()
    distances = torch.empty(len(queries), k, dtype=torch.int32, device="cpu")
    indices = torch.empty(len(queries), k, dtype=torch.int64, device="cpu")
    native.module().hamming.topk(
        *_codes(queries),
        *_codes(codes),
        queries.shape[1],
        k,
        distances.data_ptr(),
        indices.data_ptr(),
        torch.get_num_threads(),
    )
    return distances, indices


def hamming_range(queries: Tensor, codes: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    queries, codes = queries.contiguous(), codes.contiguous()
    found = native.module().hamming.range(
        *_codes(queries), *_codes(codes), queries.shape[1], radius, torch.get_num_threads()
    )
    lims, distances, indices = (torch.from_numpy(array) for array in found)
    return lims, distances, indices


def _codes(x: Tensor) -> tuple[int, int]:
    return x.data_ptr(), len(x)
