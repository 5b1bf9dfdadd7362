"""The public calls of what follows a projection: gates, residuals, norms, activations."""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from xmkern._functional.attention import _seed
from xmkern.ops import epilogue

_DTYPES = {torch.float32, torch.bfloat16, torch.float16, torch.float64}
_ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu")


@overload
def add_layer_norm(
    x: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    eps: float = 1e-5,
    pb_relax: bool = False,
    return_sum: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...
@overload
def add_layer_norm(
    x: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    eps: float = 1e-5,
    pb_relax: bool = False,
    return_sum: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...
def add_layer_norm(
    x: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    eps: float = 1e-5,
    pb_relax: bool = False,
    return_sum: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """LayerNorm(s) of s = residual + dropout(x + linear_bias), in one pass (Ba et al., 2016).

    A post-norm block ends with it. A pre-norm block's end and the norm with which the next block begins are one call
    with ``return_sum``. Inside all is float32 (float64 for float64); inputs may be of different dtypes, and autocast
    casts none.

    Args:
        x: [..., D]: what a projection gave, without its bias if ``linear_bias`` is that.
        residual: the shape of x. None counts as zeros, so that the call is a LayerNorm.
        weight, bias: [D], of the norm. None: ones, zeros.
        linear_bias: [D]. None: zeros.
        dropout_p: the share of elements that are dropped, 0 to 1. The seed is drawn from torch's generator of the
            device; the mask is never stored.
        eps: is added to the variance.
        pb_relax: LayerNorm(s / (max |s| / 8)), the maximum over the whole tensor and without a gradient (Ding et al.,
            2021, "CogView", as in the authors' code). That is LayerNorm with ``eps`` times (max |s| / 8)^2, and so it
            is computed; the maximum takes another pass over the inputs.
        return_sum: whether to return s too. The norm is then of s as it is returned, rounded to its dtype.

    Returns:
        [..., D], in the dtype to which x and residual promote; with ``return_sum`` also s, likewise. A row without any
        deviation gives ``bias``, even with ``eps`` 0.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    _check(x, residual, linear_bias=linear_bias, weight=weight, bias=bias)
    seed = None if dropout_p == 0 else _seed(dropout_p, x.device)
    out, total = epilogue.add_norm(
        x, residual, linear_bias, None, None, weight, bias, False, True, return_sum, False, pb_relax, _eps(eps),
        dropout_p, seed, backend,
    )  # fmt: skip
    return (out, total) if return_sum else out


@overload
def add_rms_norm(
    x: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    eps: float = 1e-6,
    return_sum: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...
@overload
def add_rms_norm(
    x: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    eps: float = 1e-6,
    return_sum: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...
def add_rms_norm(
    x: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    eps: float = 1e-6,
    return_sum: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`add_layer_norm` with weight * s / sqrt(mean s^2 + eps) instead of LayerNorm (Zhang and Sennrich, 2019),
    as T5 has it."""
    _check(x, residual, linear_bias=linear_bias, weight=weight)
    seed = None if dropout_p == 0 else _seed(dropout_p, x.device)
    out, total = epilogue.add_norm(
        x, residual, linear_bias, None, None, weight, None, False, True, return_sum, True, False, _eps(eps),
        dropout_p, seed, backend,
    )  # fmt: skip
    return (out, total) if return_sum else out


@overload
def sandwich_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    eps: float = 1e-5,
    pb_relax: bool = False,
    next_norm: Literal[False] = False,
    next_weight: None = None,
    next_bias: None = None,
    backend: str = "auto",
) -> Tensor: ...
@overload
def sandwich_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    eps: float = 1e-5,
    pb_relax: bool = False,
    next_norm: Literal[True],
    next_weight: Tensor | None = None,
    next_bias: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...
def sandwich_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    eps: float = 1e-5,
    pb_relax: bool = False,
    next_norm: bool = False,
    next_weight: Tensor | None = None,
    next_bias: Tensor | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """s = residual + LayerNorm(dropout(x + linear_bias)), CogView's Sandwich-LN (Ding et al., 2021), in one pass; with
    ``next_norm`` also LayerNorm(s), with which the next block begins.

    Args:
        x, residual, weight, bias, linear_bias, dropout_p, eps, pb_relax: see :func:`add_layer_norm`; here residual is
            required, weight and bias are of the norm of the branch, and eps and pb_relax are of both norms.
        next_norm: whether the norm of s is wanted.
        next_weight, next_bias: [D], of the norm of s.

    Returns:
        s [..., D]; with ``next_norm``, the norm of s and s, as :func:`add_layer_norm` has them with ``return_sum``.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    if residual is None:
        raise TypeError("residual must be a tensor, not None")
    if not next_norm and (next_weight is not None or next_bias is not None):
        raise ValueError("next_norm must be True where next_weight or next_bias is given")
    _check(x, residual, linear_bias=linear_bias, weight=weight, bias=bias, next_weight=next_weight, next_bias=next_bias)
    seed = None if dropout_p == 0 else _seed(dropout_p, x.device)
    out, total = epilogue.add_norm(
        x, residual, linear_bias, weight, bias, next_weight, next_bias, True, next_norm, True, False, pb_relax,
        _eps(eps), dropout_p, seed, backend,
    )  # fmt: skip
    return (out, total) if next_norm else total


def bias_dropout_add(
    x: Tensor,
    residual: Tensor,
    bias: Tensor | None = None,
    *,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """residual + dropout(x + bias), in one pass: how a branch of a pre-norm block ends where no norm follows.

    Args:
        x, residual, dropout_p: see :func:`add_layer_norm`; here residual is required.
        bias: [D], as of the projection that gave x. None: zeros.

    Returns:
        [..., D], in the dtype to which x and residual promote.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    if residual is None:
        raise TypeError("residual must be a tensor, not None")
    _check(x, residual, bias=bias)
    seed = None if dropout_p == 0 else _seed(dropout_p, x.device)
    _, total = epilogue.add_norm(
        x, residual, bias, None, None, None, None, False, False, True, False, False, 0.0, dropout_p, seed, backend
    )
    return total


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
    D = _check(x, residual, bias=bias)
    if activation not in (None, "tanh", "sigmoid"):
        raise ValueError(f"activation must be 'tanh', 'sigmoid' or None, not {activation!r}")
    if gate is not None:
        _check_tensor("gate", gate, x)
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
    _check(x, bias=bias)
    return epilogue.bias_activation(x, bias, _known(activation), False, backend)


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
    if _check(x, bias=bias) % 2:
        raise ValueError(f"x must be [..., 2 D], with an even last axis, not of shape {list(x.shape)}")
    return epilogue.bias_activation(x, bias, _known(activation), True, backend)


def _check(x: Any, residual: Any = None, **parameters: Any) -> int:
    """-> D"""
    _check_tensor("x", x, x)
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"x must have a last axis D of at least 1, not shape {list(x.shape)}")
    if residual is not None:
        _check_tensor("residual", residual, x)
        if residual.shape != x.shape:
            raise ValueError(f"residual must be of shape {list(x.shape)} as x is, not {list(residual.shape)}")
    D = x.shape[-1]
    for name, parameter in parameters.items():
        if parameter is not None:
            _check_tensor(name, parameter, x)
            if parameter.shape != (D,):
                raise ValueError(
                    f"{name} must be of shape [D] = [{D}] as the last axis of x, not {list(parameter.shape)}"
                )
    return D


def _check_tensor(name: str, value: Any, x: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(value).__name__}")
    if value.dtype not in _DTYPES:
        raise TypeError(f"{name} must be of float32, bfloat16, float16 or float64, not {value.dtype}")
    if value.is_nested or value.layout != torch.strided:
        raise TypeError(f"{name} must be dense, not {'nested' if value.is_nested else f'of layout {value.layout}'}")
    if value.device != x.device:
        raise ValueError(f"{name} must be on {x.device} as x is, not on {value.device}")


def _eps(eps: Any) -> float:
    if not isinstance(eps, int | float):
        raise TypeError(f"eps must be a number, not {type(eps).__name__}")
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, not {eps}")
    return float(eps)


def _known(activation: str) -> str:
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, _ACTIVATIONS))}, not {activation!r}")
    return activation
