"""The public call of a linear layer's product."""

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from xmkern import native
from xmkern.ops.linear import linear as _product

# Multiply-adds below which a call takes longer than what it could save.
_LEAST = 1 << 22


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """x times the transpose of weight, and bias: :func:`torch.nn.functional.linear`, with its gradients.

    On the CPU, float32 is served by a kernel whose sums do not depend on the number of threads. Small products,
    processors without AVX2, other devices and torch.func get torch's own, unless ``backend`` names another; so do
    autocast, torch.compile, and tensors that are nested, sparse or on the meta device, in any case.

    Args:
        x: [..., N].
        weight: [M, N], of the dtype of x.
        bias: [M]. None: zeros.

    Returns:
        [..., M], in the dtype of x.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    if (
        torch.compiler.is_compiling()
        or not (_plain(x) and _plain(weight) and (bias is None or _plain(bias)))
        or x.is_meta
        or torch.is_autocast_enabled(x.device.type)
    ):
        return F.linear(x, weight, bias)
    _check(x, weight, bias)
    if backend == "auto" and (
        not x.is_cpu
        or x.dim() < 2
        or x.numel() * weight.shape[0] < _LEAST
        or native.cpu_capability() == "baseline"
        or torch._C._are_functorch_transforms_active()
    ):
        return F.linear(x, weight, bias)
    return _product(x, weight, bias, backend)


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
