"""Two players in one loss: each side's parameters are held for the other."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def held(module: nn.Module, *inputs: Any) -> Any:
    """``module(*inputs)``, through which gradients reach the inputs but not the module's parameters."""
    return functional_call(module, {name: p.detach() for name, p in module.named_parameters()}, inputs)


def gradient_norms(score: Tensor, *inputs: Tensor) -> Tensor:
    """[B]: the norm of the gradient of each sample's score [B] with respect to its inputs, itself differentiable."""
    gradients = torch.autograd.grad(score.sum(), inputs, create_graph=True)
    return torch.cat([gradient.flatten(1) for gradient in gradients], 1).norm(dim=1)


def noise(count: int, dim: int, like: Tensor, seed: int | None = None) -> Tensor:
    """Normal numbers [count, dim] where and of the type that ``like`` is, of torch's generator or of a seed."""
    if seed is None:
        return torch.randn(count, dim, dtype=like.dtype, device=like.device)
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)).to(like)
