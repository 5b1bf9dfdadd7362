"""A linear layer in plain PyTorch."""

from torch import Tensor
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[..., N], [M, N], [M] -> [..., M]"""
    return F.linear(x, weight, bias)


def linear_backward(
    grad: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool, of_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """[..., M] -> the gradients of x, weight and bias; [0] where one is not asked for"""
    rows = grad.flatten(0, -2)
    nothing = grad.new_empty(0)
    return (
        grad @ weight if of_x else nothing,
        rows.mT @ x.flatten(0, -2) if of_weight else nothing,
        rows.sum(0) if of_bias else nothing,
    )
