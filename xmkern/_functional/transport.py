"""The public call of word-region alignment by optimal transport."""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from xmkern._functional.similarities import without_autocast
from xmkern.ops.dtype import wide_dtype
from xmkern.ops.transport import transport_plan

_LEAST_NORM = 1e-5


@overload
def optimal_transport_alignment(
    x_tokens: Tensor,
    y_tokens: Tensor,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    *,
    beta: float = 0.5,
    iterations: int = 50,
    inner: int = 1,
    return_plan: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...
@overload
def optimal_transport_alignment(
    x_tokens: Tensor,
    y_tokens: Tensor,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    *,
    beta: float = 0.5,
    iterations: int = 50,
    inner: int = 1,
    return_plan: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...
def optimal_transport_alignment(
    x_tokens: Tensor,
    y_tokens: Tensor,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    *,
    beta: float = 0.5,
    iterations: int = 50,
    inner: int = 1,
    return_plan: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The cost of moving the tokens of each sample onto those of its partner (Chen et al., 2020, "UNITER"; Kim et al.,
    2021, "ViLT").

    Each of n tokens x carries 1 / n, each of m tokens y receives 1 / m, and bringing a part from one to the other costs
    1 - cosine times the part. The plan comes of inexact proximal point iterations (Xie et al., 2018), in float32
    whatever the dtype (float64 for float64), and counts as a constant: the gradient goes through the costs alone, as in
    UNITER's and ViLT's code. Norms under the cosines are at least 1e-5.

    Args:
        x_tokens: [B, R, D].
        y_tokens: [B, T, D].
        x_mask: [B, R], bool: True where a token takes part (UNITER's ``txt_pad`` has True where it does not). None: all
            do.
        y_mask: [B, T], bool.
        beta: the step of the iterations; the smaller, the fewer are needed, and the more underflows.
        iterations: how many proximal steps.
        inner: how many Sinkhorn steps in each.
        return_plan: whether to return the plan too.

    Returns:
        The cost [B], float32 (float64 for float64); with ``return_plan`` also the plan [B, R, T], which sums to 1 / n
        over y and to about 1 / m over x. A sample of which a side is empty has zeros.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    x, x_mask = _side("x_tokens", x_tokens, "[B, R, D]", "x_mask", x_mask)
    y, y_mask = _side("y_tokens", y_tokens, "[B, T, D]", "y_mask", y_mask)
    if x.shape[0] != y.shape[0] or x.shape[2] != y.shape[2]:
        axes = f"with B = {x.shape[0]} and D = {x.shape[2]} as x_tokens has"
        raise ValueError(f"y_tokens must have the axes [B, T, D] {axes}, not {list(y.shape)}")
    if y.device != x.device:
        raise ValueError(f"y_tokens must be on {x.device} as x_tokens is, not on {y.device}")
    if not beta > 0:
        raise ValueError(f"beta must be greater than 0, not {beta}")
    for name, count in (("iterations", iterations), ("inner", inner)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")
    with without_autocast(x):
        # Norms are divided out of the products, which are few beside the tokens.
        x_scale, y_scale = (1 / torch.linalg.vector_norm(tokens, dim=2).clamp(min=_LEAST_NORM) for tokens in (x, y))
        cost = 1 - y @ x.mT * y_scale[:, :, None] * x_scale[:, None]
        plan = transport_plan(cost.detach(), y_mask, x_mask, float(beta), iterations, inner, backend=backend)
        distance = (cost * plan).sum((1, 2))
    return (distance, plan.mT) if return_plan else distance


def _side(name: str, tokens: Any, axes: str, mask_name: str, mask: Any) -> tuple[Tensor, Tensor]:
    """The tokens, zeros where they take no part; and the mask."""
    if not isinstance(tokens, Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(tokens).__name__}")
    if tokens.dim() != 3:
        raise ValueError(f"{name} must have three axes, {axes}, not shape {list(tokens.shape)}")
    if not tokens.is_floating_point():
        raise TypeError(f"{name} must be of floating point, not {tokens.dtype}")
    tokens = tokens.to(wide_dtype(tokens.dtype))
    if mask is None:
        return tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"{mask_name} must be a bool tensor, not {getattr(mask, 'dtype', type(mask).__name__)}")
    if mask.shape != tokens.shape[:2]:
        raise ValueError(f"{mask_name} must be of shape {list(tokens.shape[:2])}, not {list(mask.shape)}")
    if mask.device != tokens.device:
        raise ValueError(f"{mask_name} must be on {tokens.device} as {name} is, not on {mask.device}")
    return torch.where(mask[:, :, None], tokens, 0.0), mask
