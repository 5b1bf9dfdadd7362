"""The public call of a linear layer's product."""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.nn import functional as F

from xmkern import native
from xmkern.ops.linear import few_rows, ordinary, product_dtype, torch_crawls
from xmkern.ops.linear import linear as _product

# Multiply-adds below which a call takes longer than what it could save: where torch's own product is a fast one, and
# where it is a slow one.
_LEAST = 1 << 22
_LEAST_OF_LOOPS = 1 << 17
# With few rows what counts is to read the weight once. It is then large, or caches and torch serve as well.
_LARGE_WEIGHT = 1 << 18
# Without AVX-512 ours makes better use of the multipliers than torch's BLAS from so many rows on: packing takes time.
_MANY_ROWS = 256


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """x times the transpose of weight, and bias: :func:`torch.nn.functional.linear`, with its gradients.

    Ours serves on the CPU where it is the faster one: half precision on processors for which torch has nothing but
    plain loops or converts number by number, also under autocast and torch.compile; float32 but on Intel's processors,
    of which torch's BLAS makes full use, without AVX-512 from 256 rows on; and a few rows of a large weight, where
    no gradient is wanted, in float32 and, with AVX-512, bfloat16. Everything else is torch's own, unless ``backend``
    names another: small products, processors without AVX2, other devices, and torch.func; and in any case float32 under
    torch.compile, and tensors that are nested, sparse or on the meta device. The sums of ours do not depend on the
    number of threads.

    Args:
        x: [..., N].
        weight: [M, N], of the dtype of x.
        bias: [M]. None: zeros.

    Returns:
        [..., M], in the dtype of x; under autocast, in that which it asks for.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    # In one look, where all is as it mostly is: the checks of each tensor take as long as a small product.
    if backend == "auto" and ordinary(x, weight, bias) and not torch._C._is_any_autocast_enabled():
        return _product(x, weight, bias, backend) if is_faster(x, weight) else F.linear(x, weight, bias)
    if not (_plain(x) and _plain(weight) and (bias is None or _plain(bias))) or x.is_meta:
        return F.linear(x, weight, bias)
    if torch.is_autocast_enabled(x.device.type):
        if not (x.is_cpu and torch_crawls(product_dtype(x))):
            return F.linear(x, weight, bias)
        x, weight = x.to(product_dtype(x)), weight.to(product_dtype(weight))
        bias = None if bias is None else bias.to(product_dtype(bias))
    if torch.compiler.is_compiling():  # then no look at sizes, which would be guarded and compiled anew
        ours = x.is_cpu and x.dim() > 1 and torch_crawls(x.dtype)
        return _product(x, weight, bias, backend) if ours else F.linear(x, weight, bias)
    _check(x, weight, bias)
    if backend == "auto" and not is_faster(x, weight):
        return F.linear(x, weight, bias)
    return _product(x, weight, bias, backend)


def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether ours serves: by what was measured, it is faster than torch's own there."""
    work = x.numel() * weight.shape[0]
    if work < _LEAST_OF_LOOPS or x.dtype not in native.DTYPES:  # the least of all that follow
        return False
    capability = native.cpu_capability()
    if not x.is_cpu or x.dim() < 2 or capability == "baseline":
        return False
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    size = weight.numel()
    few = few_rows(x, weight) and not torch.is_grad_enabled()
    if torch_crawls(x.dtype):  # but its loops read a single row at the speed of memory, without gradients
        return work > size or torch.is_grad_enabled() or (few and size >= _LARGE_WEIGHT)
    if few:  # MKL reads one row or two as fast on its own processors
        return size >= _LARGE_WEIGHT and (work > 2 * size or not native.MADE_BY_INTEL)
    many = capability != "avx2" or work >= _MANY_ROWS * size
    return many and work >= _LEAST and not native.MADE_BY_INTEL


def _plain(x: Tensor) -> bool:
    """Whether it is a tensor that a kernel can read: no subclass, neither nested nor sparse."""
    return type(x) in (Tensor, Parameter) and x.layout == torch.strided and not x.is_nested


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if weight.dim() != 2 or x.dim() == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"weight must be [M, N] with N that of x [..., N], not {list(weight.shape)} where x is {list(x.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be [M] = [{weight.shape[0]}] as weight has rows, not {list(bias.shape)}")
    for name, each in (("weight", weight), ("bias", bias)):
        if each is None:
            continue
        if each.dtype != x.dtype:
            raise TypeError(f"{name} must be of {x.dtype} as x is, not of {each.dtype}")
        if each.device != x.device:
            raise ValueError(f"{name} must be on {x.device} as x is, not on {each.device}")
