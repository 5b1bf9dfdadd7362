"""Launches the C++ kernels: makes the memory, passes addresses and strides."""

import torch
from torch import Tensor

from xmkern import native
from xmkern.ops.fresh import fresh

MAX_SIZE = 2048


def refuses(words: Tensor, regions: Tensor, *args: object) -> str | None:
    if not words.is_cpu:
        return f"the tensors are on {words.device}"
    if words.dtype not in native.DTYPES:
        return f"the kernels take float32, bfloat16 and float16, not {words.dtype}"
    if words.shape[2] > MAX_SIZE:
        return f"the kernels take words and regions of up to {MAX_SIZE} numbers, not {words.shape[2]}"
    if regions.shape[1] > MAX_SIZE:  # what they keep of an image grows with the square
        return f"the kernels take up to {MAX_SIZE} regions, not {regions.shape[1]}"
    return native.why_missing()


def word_region_cosines(words: Tensor, regions: Tensor, lengths: Tensor, gamma1: float) -> tuple[Tensor, Tensor]:
    cosines, norms = (torch.empty(len(words), len(regions), words.shape[1], device="cpu") for _ in range(2))
    call, kept = _call(words, regions, lengths, cosines, norms, gamma1)
    native.module().damsm.forward(*call, torch.get_num_threads())
    del kept
    return cosines, norms


def word_region_cosines_backward(
    grad_cosines: Tensor,
    words: Tensor,
    regions: Tensor,
    lengths: Tensor,
    cosines: Tensor,
    norms: Tensor,
    gamma1: float,
) -> tuple[Tensor, Tensor]:
    grads = [fresh(torch.empty(x.shape, dtype=x.dtype, device="cpu")) for x in (words, regions)]
    grad_cosines, cosines, norms = grad_cosines.contiguous(), cosines.contiguous(), norms.contiguous()
    call, kept = _call(words, regions, lengths, cosines, norms, gamma1)
    native.module().damsm.backward(
        *call, grad_cosines.data_ptr(), *(_operand(grad)[1] for grad in grads), torch.get_num_threads()
    )
    del kept
    return grads[0], grads[1]


def _call(
    words: Tensor, regions: Tensor, lengths: Tensor, cosines: Tensor, norms: Tensor, gamma1: float
) -> tuple[tuple[object, ...], object]:
    """The arguments that both directions share, and the tensors that must outlive the call."""
    words, word_numbers = _operand(words)
    regions, region_numbers = _operand(regions)
    lengths = lengths.to(torch.int64).clamp(0, words.shape[1]).contiguous()
    call = (
        (len(words), len(regions), words.shape[1], regions.shape[1], words.shape[2]),
        native.DTYPES[words.dtype],
        gamma1,
        word_numbers,
        region_numbers,
        lengths.data_ptr(),
        cosines.data_ptr(),
        norms.data_ptr(),
    )
    return call, (words, regions, lengths)


def _operand(x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """The tensor, or a copy whose last axis is dense; its address and strides of item and row."""
    if x.stride(2) != 1:
        x = x.contiguous()
    return x, (x.data_ptr(), x.stride(0), x.stride(1))
