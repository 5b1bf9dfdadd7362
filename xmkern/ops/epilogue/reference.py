"""What follows a projection, in plain PyTorch. Named axes: README.md of this folder.

Everything is computed in float32, or float64 where an input is, and rounded once: when it is returned.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xmkern.ops.attention.reference import keep_mask
from xmkern.ops.dropout import kept_scale
from xmkern.ops.dtype import wide_dtype


def add_norm(
    x: Tensor,
    residual: Tensor | None,
    linear_bias: Tensor | None,
    inner_weight: Tensor | None,
    inner_bias: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    inner: bool,
    outer: bool,
    keep_sum: bool,
    rms: bool,
    pb_relax: bool,
    eps: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """-> out [..., D] if ``outer``, the sum [..., D] if ``keep_sum``, else [0]; and of each norm that there is, the
    inner first, means and scales [norms, 2, rows]"""
    dtype = sum_dtype(x, residual)
    total = _branch(x, linear_bias, dropout_p, seed, wide_dtype(dtype))
    moments = [total.new_empty(0, 2, total.shape[:-1].numel())]
    if inner:
        normal, *moments[1:] = _normalize(total, eps, rms, pb_relax)
        total = _affine(normal, inner_weight, inner_bias)
    if residual is not None:
        total = residual.to(total) + total
    kept = out = x.new_empty(0, dtype=dtype)
    if keep_sum:
        kept = total.to(dtype, copy=True)
        total = kept.to(total)
    if outer:
        normal, of_outer = _normalize(total, eps, rms, pb_relax)
        moments.append(of_outer)
        out = _affine(normal, weight, bias).to(dtype)
    return out, kept, torch.cat(moments)


def add_norm_backward(
    grad_out: Tensor | None,
    grad_sum: Tensor | None,
    x: Tensor | None,
    residual: Tensor | None,
    kept_sum: Tensor | None,
    moments: Tensor,
    linear_bias: Tensor | None,
    inner_weight: Tensor | None,
    inner_bias: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    inner: bool,
    rms: bool,
    residual_grad: bool,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """-> the gradients of x; of residual if ``residual_grad``, else [0]; [P, D] of the parameters that there are, in
    their order above

    x is needed where there is no kept sum, or an inner norm; without it the gradients of x come in the sum's dtype.
    """
    like = grad_out if grad_out is not None else grad_sum
    assert like is not None
    wide = wide_dtype(like.dtype)
    parameters: list[Tensor | None] = [None] * 5
    grad = like.new_zeros(like.shape, dtype=wide)
    branch = None if x is None else _branch(x, linear_bias, dropout_p, seed, wide)
    if grad_out is not None:
        if kept_sum is not None:
            total = kept_sum.to(wide)
        else:
            assert branch is not None
            total = branch if residual is None else residual.to(wide) + branch
        grad, *parameters[3:] = _norm_backward(grad_out.to(wide), total, weight, moments[-1], rms)
    if grad_sum is not None:
        grad = grad + grad_sum.to(wide)
    grad_residual = grad
    if inner:
        assert branch is not None
        grad, *parameters[1:3] = _norm_backward(grad, branch, inner_weight, moments[0], rms)
    grad = _dropout(grad, dropout_p, seed)
    parameters[0] = _sum_of_rows(grad)
    there = (linear_bias, inner_weight, inner_bias, weight, bias)
    zeros = grad.new_zeros(grad.shape[-1])
    wanted = [zeros if p is None else p for p, given in zip(parameters, there, strict=True) if given is not None]
    return (
        grad.to(like.dtype if x is None else x.dtype),
        grad_residual.to(like.dtype if residual is None else residual.dtype) if residual_grad else like.new_empty(0),
        torch.stack(wanted) if wanted else zeros.new_empty(0, grad.shape[-1]),
    )


def gated_residual(
    x: Tensor, residual: Tensor, gate: Tensor | None, bias: Tensor | None, activation: str | None
) -> Tensor:
    """-> residual + activation(gate) * (x + bias), [..., D]"""
    dtype = sum_dtype(x, residual)
    branch = _shifted(x, bias, wide_dtype(dtype))
    if gate is not None:
        branch = branch * _opened(gate.to(branch), activation)[0]
    return (residual.to(branch) + branch).to(dtype)


def gated_residual_backward(
    grad: Tensor, x: Tensor, gate: Tensor | None, bias: Tensor | None, activation: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    """-> the gradients of x; of a gate [..., D] ([0] of another); and [P, D] of a gate [D], [1] or [], to be summed up
    for the latter two, and of the bias"""
    dtype, (branch, grad) = x.dtype, (_shifted(x, bias, wide_dtype(grad.dtype)), grad.to(wide_dtype(grad.dtype)))
    grad_gate, parameters = x.new_empty(0), []
    grad_x = grad.clone()
    if gate is not None:
        opened, slope = _opened(gate.to(branch), activation)
        grad_x, of_gate = grad * opened, grad * branch * slope
        if gate.dim() > 1:
            grad_gate = of_gate.to(gate.dtype)
        else:
            parameters.append(_sum_of_rows(of_gate))
    if bias is not None:
        parameters.append(_sum_of_rows(grad_x))
    stacked = torch.stack(parameters) if parameters else grad.new_empty(0, x.shape[-1])
    return grad_x.to(dtype), grad_gate, stacked


def bias_activation(x: Tensor, bias: Tensor | None, activation: str, gated: bool) -> Tensor:
    """-> activation(x + bias) [..., D]; gated: of x [..., 2 D], the first half times the activation of the second"""
    shifted = _shifted(x, bias, wide_dtype(x.dtype))
    if not gated:
        return _activated(shifted, activation)[0].to(x.dtype)
    value, gate = shifted.chunk(2, -1)
    return (value * _activated(gate, activation)[0]).to(x.dtype)


def bias_activation_backward(
    grad: Tensor, x: Tensor, bias: Tensor | None, activation: str, gated: bool
) -> tuple[Tensor, Tensor]:
    """-> the gradients of x and of bias ([0] if there is none)"""
    shifted = _shifted(x, bias, wide_dtype(x.dtype))
    grad = grad.to(shifted)
    if gated:
        value, gate = shifted.chunk(2, -1)
        activated, slope = _activated(gate, activation)
        grad = torch.cat([grad * activated, grad * value * slope], -1)
    else:
        grad = grad * _activated(shifted, activation)[1]
    return grad.to(x.dtype), grad.new_empty(0) if bias is None else _sum_of_rows(grad)


def sum_dtype(x: Tensor, residual: Tensor | None) -> torch.dtype:
    return x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)


def _shifted(x: Tensor, bias: Tensor | None, wide: torch.dtype) -> Tensor:
    return x.to(wide) if bias is None else x.to(wide) + bias.to(wide)


def _branch(x: Tensor, bias: Tensor | None, dropout_p: float, seed: Tensor | None, wide: torch.dtype) -> Tensor:
    return _dropout(_shifted(x, bias, wide), dropout_p, seed)


def _dropout(x: Tensor, dropout_p: float, seed: Tensor | None) -> Tensor:
    """Element (i, d) of [rows, D] is kept where attention's (i, d) of one matrix is."""
    if seed is None:
        return x
    rows = x.numel() // x.shape[-1]
    kept = keep_mask((1, 1, rows, x.shape[-1]), dropout_p, seed).view(x.shape)
    return torch.where(kept, x * kept_scale(dropout_p), 0.0)


def _normalize(x: Tensor, eps: float, rms: bool, pb_relax: bool) -> tuple[Tensor, Tensor]:
    """-> x less its mean, over its standard deviation; and the mean and one over the deviation, [1, 2, rows]

    A row without any deviation gives zeros. Relaxed is the norm of x / (max |x| / 8), which is that of x with another
    epsilon.
    """
    epsilon: Any = eps
    if pb_relax and x.numel():
        epsilon = eps * (x.abs().nan_to_num(0.0, torch.inf).amax() / 8).square()
    mean = torch.zeros_like(x[..., :1]) if rms else x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True) + epsilon
    scale = variance.rsqrt().masked_fill(variance == 0, 0)
    return (x - mean) * scale, torch.stack([mean.flatten(), scale.flatten()])[None]


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight.to(x)
    return x if bias is None else x + bias.to(x)


def _norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, moments: Tensor, rms: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """-> the gradients of what was normalised, of the weight and of the bias"""
    mean, scale = (each.view(*x.shape[:-1], 1) for each in moments)
    normal = (x - mean) * scale
    grad_weight, grad_bias = _sum_of_rows(grad * normal), _sum_of_rows(grad)
    grad = _affine(grad, weight, None)
    along = normal * (grad * normal).mean(-1, keepdim=True)
    return scale * (grad - along - (0 if rms else grad.mean(-1, keepdim=True))), grad_weight, grad_bias


def _sum_of_rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).sum(0)


def _opened(gate: Tensor, activation: str | None) -> tuple[Tensor, Tensor]:
    """-> what a gate lets through, and its slope"""
    if activation is None:
        return gate, torch.ones_like(gate)
    y = torch.tanh(gate) if activation == "tanh" else torch.sigmoid(gate)
    return y, 1 - y * y if activation == "tanh" else y * (1 - y)


def _activated(x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """-> the activation of x, and its slope"""
    if activation == "relu":
        return F.relu(x), (x > 0).to(x)
    if activation == "gelu":
        share = 0.5 * torch.erfc(-x * math.sqrt(0.5))
        return x * share, share + x * (-0.5 * x * x).exp() / math.sqrt(2 * math.pi)
    if activation == "gelu_tanh":  # (1 + tanh z) / 2 is the sigmoid of 2 z
        slope = 2 * math.sqrt(2 / math.pi)
        z, dz = slope * x * (1 + 0.044715 * x * x), slope * (1 + 3 * 0.044715 * x * x)
    else:
        slope = {"silu": 1.0, "quick_gelu": 1.702}[activation]
        z, dz = slope * x, torch.full_like(x, slope)
    share = torch.sigmoid(z)
    return x * share, share + x * share * (1 - share) * dz
