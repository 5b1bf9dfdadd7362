"""The public calls of what follows a projection: norms, and what is summed before them."""

from typing import Any, Literal, overload

from torch import Tensor

from xmkern._functional.dropout import dropout_seed
from xmkern._functional.epilogue import check_rows
from xmkern.ops import epilogue


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
    args = x, residual, linear_bias, None, None, weight, bias, False, True, return_sum, False, pb_relax, _eps(eps)
    out, total = _add_norm(args, dropout_p, backend, linear_bias=linear_bias, weight=weight, bias=bias)
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
    args = x, residual, linear_bias, None, None, weight, None, False, True, return_sum, True, False, _eps(eps)
    out, total = _add_norm(args, dropout_p, backend, linear_bias=linear_bias, weight=weight)
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
    norms = {"weight": weight, "bias": bias, "next_weight": next_weight, "next_bias": next_bias}
    args = x, residual, linear_bias, *norms.values(), True, next_norm, True, False, pb_relax, _eps(eps)
    out, total = _add_norm(args, dropout_p, backend, linear_bias=linear_bias, **norms)
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
    args = x, residual, bias, None, None, None, None, False, False, True, False, False, 0.0
    return _add_norm(args, dropout_p, backend, bias=bias)[1]


def _add_norm(
    args: tuple[Any, ...], dropout_p: float, backend: str, **parameters: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The operator -> the norm and the sum; what it does not serve at once is checked by name."""
    if backend == "auto" and dropout_p == 0:
        made: tuple[Tensor, Tensor] | None = epilogue.add_norm_at_once(*args)
        if made is not None:
            return made
    x, residual = args[:2]
    check_rows(x, residual, **parameters)
    seed = None if dropout_p == 0 else dropout_seed(dropout_p, x.device)
    return epilogue.add_norm(*args, dropout_p, seed, backend)


def _eps(eps: Any) -> float:
    if not isinstance(eps, int | float):
        raise TypeError(f"eps must be a number, not {type(eps).__name__}")
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, not {eps}")
    return float(eps)
