"""The public calls of what follows a projection: gates and activations."""

from typing import Any, Literal

import torch
from torch import Tensor

from xmkern.ops import epilogue

_DTYPES = {torch.float32, torch.bfloat16, torch.float16, torch.float64}
_ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu")


def gated_residual(
    x: Tensor,
    residual: Tensor,
    gate: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    activation: Literal["tanh", "sigmoid"] | None = None,
    backend: str = "auto",
) -> Tensor:
    """residual + activation(gate) * (x + bias), in one pass.

    With a number and tanh it is the gate of Flamingo (Alayrac et al., 2022); with a vector, LayerScale (Touvron et al.,
    2021); with an element each and sigmoid, a gate that is itself computed, as in I2Transformer. Inside all is float32
    (float64 for float64); inputs may be of different dtypes, and autocast casts none.

    Args:
        x: [..., D].
        residual: the shape of x.
        gate: a number, [] or [1]; [D]; or the shape of x. None: 1.
        bias: [D], as of the projection that gave x.
        activation: of the gate; None takes it as it is.

    Returns:
        [..., D], in the dtype to which x and residual promote.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    if residual is None:
        raise TypeError("residual must be a tensor, not None")
    if activation not in (None, "tanh", "sigmoid"):
        raise ValueError(f"activation must be 'tanh', 'sigmoid' or None, not {activation!r}")
    if backend == "auto":
        made: Tensor | None = epilogue.gated_residual_at_once(x, residual, gate, bias, activation)
        if made is not None:
            return made
    D = check_rows(x, residual, bias=bias)
    if gate is not None:
        check_tensor("gate", gate, x)
        if gate.shape not in (x.shape, (D,), (1,), ()):
            raise ValueError(
                f"gate must be of shape [], [1], [D] = [{D}] or {list(x.shape)} as x is, not {list(gate.shape)}"
            )
    elif activation is not None:
        raise ValueError(f"gate must be given where activation is, {activation!r}")
    return epilogue.gated_residual(x, residual, gate, bias, activation, backend)


def bias_activation(
    x: Tensor,
    bias: Tensor | None = None,
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"] = "gelu",
    *,
    backend: str = "auto",
) -> Tensor:
    """activation(x + bias), in one pass; x is all that is kept for the backward.

    Args:
        x: [..., D].
        bias: [D], as of the projection that gave x. None: zeros.
        activation: "gelu" is x times the normal distribution's cdf of x (Hendrycks and Gimpel, 2016), "gelu_tanh" its
            approximation by tanh, "quick_gelu" x * sigmoid(1.702 x) as in CLIP, "silu" x * sigmoid(x), "relu".

    Returns:
        [..., D], in the dtype of x.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    return _activated(x, bias, activation, False, backend)


def gated_activation(
    x: Tensor,
    bias: Tensor | None = None,
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"] = "gelu",
    *,
    backend: str = "auto",
) -> Tensor:
    """value * activation(gate) of [value, gate] = x + bias, in one pass: GEGLU with "gelu", SwiGLU with "silu"
    (Shazeer, 2020). As in diffusers, the first half is the value.

    Args:
        x: [..., 2 D].
        bias: [2 D], as of the projection that gave x. None: zeros.
        activation: see :func:`bias_activation`.

    Returns:
        [..., D], in the dtype of x.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    return _activated(x, bias, activation, True, backend)


def check_rows(x: Any, residual: Any = None, **parameters: Any) -> int:
    """-> D"""
    check_tensor("x", x, x)
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"x must have a last axis D of at least 1, not shape {list(x.shape)}")
    if residual is not None:
        check_tensor("residual", residual, x)
        if residual.shape != x.shape:
            raise ValueError(f"residual must be of shape {list(x.shape)} as x is, not {list(residual.shape)}")
    D = x.shape[-1]
    for name, parameter in parameters.items():
        if parameter is not None:
            check_tensor(name, parameter, x)
            if parameter.shape != (D,):
                raise ValueError(
                    f"{name} must be of shape [D] = [{D}] as the last axis of x, not {list(parameter.shape)}"
                )
    return D


def check_tensor(name: str, value: Any, x: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(value).__name__}")
    if value.dtype not in _DTYPES:
        raise TypeError(f"{name} must be of float32, bfloat16, float16 or float64, not {value.dtype}")
    if value.is_nested or value.layout != torch.strided:
        raise TypeError(f"{name} must be dense, not {'nested' if value.is_nested else f'of layout {value.layout}'}")
    if value.device != x.device:
        raise ValueError(f"{name} must be on {x.device} as x is, not on {value.device}")


def _activated(x: Tensor, bias: Tensor | None, activation: str, gated: bool, backend: str) -> Tensor:
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, _ACTIVATIONS))}, not {activation!r}")
    if backend == "auto":
        made: Tensor | None = epilogue.bias_activation_at_once(x, bias, activation, gated)
        if made is not None:
            return made
    if check_rows(x, bias=bias) % 2 and gated:
        raise ValueError(f"x must be [..., 2 D], with an even last axis, not of shape {list(x.shape)}")
    return epilogue.bias_activation(x, bias, activation, gated, backend)
