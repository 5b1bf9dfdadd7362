"""oneDNN's product in half precision, where torch itself would add the bias in a pass of its own."""

import torch
from torch import Tensor

HALVES = (torch.bfloat16, torch.float16)
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
# Of them, those in which oneDNN has no product on this processor: loops of torch's own serve, forward at a tenth of
# float32's speed and backward at a hundredth. A torch without oneDNN is another one, of which we know nothing.
_LOOPS = frozenset(
    dtype
    for dtype, asked in zip(HALVES, ("_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"), strict=True)
    if _AVAILABLE and not getattr(torch.ops.mkldnn, asked, lambda: True)()
)
# Whether oneDNN has to convert each bfloat16 as it multiplies, at a fifth of float32's speed: with an AVX-512 without
# its BF16 part.
_CONVERTS_BFLOAT16 = (
    _AVAILABLE
    and getattr(torch.cpu, "_is_avx512_supported", lambda: False)()
    and not getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)()
)


def torch_loops(dtype: torch.dtype) -> bool:
    """Whether torch has nothing but plain loops for products of this half precision on this processor."""
    return dtype in _LOOPS


def torch_crawls(dtype: torch.dtype) -> bool:
    """Whether torch's products and convolutions in this half precision are slower than float32's on this processor:
    plain loops, or numbers converted one by one."""
    return dtype in _LOOPS or (_CONVERTS_BFLOAT16 and dtype == torch.bfloat16)


def product_dtype(x: Tensor) -> torch.dtype:
    """In which torch computes products and convolutions with ``x``: its own, or that which autocast asks for."""
    if torch.is_autocast_enabled(x.device.type) and x.is_floating_point() and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def refuses(x: Tensor, weight: Tensor, *args: object) -> str | None:
    if weight.dtype != x.dtype or x.dtype not in HALVES:
        return f"oneDNN is asked in half precision only, not {x.dtype} and {weight.dtype}"
    if not (x.is_cpu and weight.is_cpu):
        return f"the tensors are on {x.device} and {weight.device}"
    if not _AVAILABLE:
        return "this torch has no oneDNN"
    return f"oneDNN has no fast product in {x.dtype} on this processor" if torch_crawls(x.dtype) else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
