"""What the calls over a matrix of similarities share: their operands, labels and ids, and how a loss is reduced."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmkern.ops.dtype import wide_dtype
from xmkern.ops.gradient import graded

_DTYPES = {torch.float32, torch.bfloat16, torch.float16, torch.float64}
_NORM_EPS = 1e-12  # that of torch.nn.functional.normalize


class Operands(NamedTuple):
    """The first arguments of ``reduce_similarities``."""

    x: Tensor
    y: Tensor
    x_scale: Tensor
    y_scale: Tensor
    bias: Tensor


def operands(
    x: Any,
    y: Any,
    logit_scale: Any = 1.0,
    logit_bias: Any = None,
    normalize: bool = False,
    names: tuple[str, str, str] = ("x", "y", "logit_scale"),
) -> Operands:
    """Checks, casts as autocast would, and splits the scale and the norms into numbers of rows and columns."""
    for name, operand in zip(names, (x, y), strict=False):
        check_matrix(name, operand)
    if y.shape[1] != x.shape[1]:
        raise ValueError(f"{names[1]} must have D = {x.shape[1]} columns as {names[0]} has, not {y.shape[1]}")
    if y.device != x.device:
        raise ValueError(f"{names[1]} must be on {x.device} as {names[0]} is, not on {y.device}")
    x, y = autocast(x), autocast(y)
    if x.dtype not in _DTYPES or x.dtype != y.dtype:
        raise TypeError(
            f"{names[0]} and {names[1]} must be of one dtype, float32, bfloat16, float16 or float64, "
            f"not {x.dtype} and {y.dtype}"
        )
    scale = number(names[2], logit_scale, x)
    bias = number("logit_bias", 0.0 if logit_bias is None else logit_bias, x)
    if normalize:
        return Operands(x, y, scale * inverse_norms(x), inverse_norms(y), bias)
    return Operands(x, y, scale.expand(x.shape[0]), ones(y), bias)


def check_matrix(name: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(x).__name__}")
    if x.is_nested or x.layout != torch.strided:
        raise TypeError(f"{name} must be dense, not {'nested' if x.is_nested else f'of layout {x.layout}'}")
    if x.dim() != 2 or x.shape[1] == 0:
        raise ValueError(f"{name} must have two axes, rows and at least one column, not shape {list(x.shape)}")


def autocast(x: Tensor) -> Tensor:
    kind = x.device.type
    if x.is_meta or not torch.is_autocast_enabled(kind) or x.dtype == torch.float64 or not x.is_floating_point():
        return x
    return x.to(torch.get_autocast_dtype(kind))


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def number(name: str, value: Any, x: Tensor) -> Tensor:
    """-> [], float32, or float64 where x is"""
    if isinstance(value, int | float):
        return x.new_full((), value, dtype=wide_dtype(x.dtype))
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a number or a floating-point tensor of one element, not {kind}")
    if value.numel() != 1:
        raise ValueError(f"{name} must be of one element, not of shape {list(value.shape)}")
    if value.device != x.device:
        raise ValueError(f"{name} must be on {x.device}, not on {value.device}")
    dtype = wide_dtype(x.dtype)
    return value if value.dtype == dtype and not value.shape else value.reshape(()).to(dtype)


def ones(x: Tensor) -> Tensor:
    return x.new_ones(x.shape[0], dtype=wide_dtype(x.dtype))


def inverse_norms(x: Tensor) -> Tensor:
    """[B]: what the rows of x are multiplied with to have a norm of 1"""
    call: Callable[..., Tensor] = _InverseNorms.apply if graded(x) else _inverse_norms
    return call(x)


def _inverse_norms(x: Tensor) -> Tensor:
    with without_autocast(x):  # which would make a float32 copy of x
        return 1 / torch.linalg.vector_norm(x, dim=1, dtype=wide_dtype(x.dtype)).clamp_min(_NORM_EPS)


class _InverseNorms(torch.autograd.Function):
    """What autograd would do too, in a seventh of the time: one pass over x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _inverse_norms(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, inverse = ctx.saved_tensors
        slope = torch.where(inverse < 1 / _NORM_EPS, -grad * inverse**3, 0)
        return (x * slope[:, None]).to(x.dtype)


def check_ids(name: str, ids: Any, count: int, x: Tensor) -> Tensor:
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64:
        kind = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"{name} must be an int64 tensor, not {kind}")
    if ids.shape != (count,):
        raise ValueError(f"{name} must be of shape [{count}], not {list(ids.shape)}")
    if ids.device != x.device:
        raise ValueError(f"{name} must be on {x.device}, not on {ids.device}")
    return ids


def label_ids(labels: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The column of each row [B], from None, an offset or a tensor, and the columns' own numbers [N]."""
    B, N = x.shape[0], y.shape[0]
    columns = torch.arange(N, device=x.device)
    if isinstance(labels, Tensor):
        return check_ids("labels", labels, B, x), columns
    if labels is None and B == N:
        return columns, columns
    offset = 0 if labels is None else labels
    if not isinstance(offset, int):
        raise TypeError(f"labels must be None, an int or an int64 tensor, not {type(labels).__name__}")
    if offset < 0 or offset + B > N:
        raise ValueError(f"labels: rows {offset} to {offset + B - 1} of y must exist, and it has {N}")
    return columns[offset : offset + B], columns


def check_symmetric(symmetric: bool, x: Tensor, y: Tensor) -> None:
    if symmetric and x.shape[0] != y.shape[0]:
        raise ValueError(
            f"symmetric must be False where x and y differ in their number of rows, {x.shape[0]} and {y.shape[0]}"
        )


def check_choice(name: str, value: Any, *choices: str) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")


def check_reduction(reduction: Any) -> None:
    check_choice("reduction", reduction, "mean", "sum", "none")


def reduced(losses: Tensor, reduction: str, counts: Tensor | None = None) -> Tensor:
    """Of losses [B], those that count (all, by default) in the mean, which is 0 where none does."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if counts is None:
        return losses.sum() / max(losses.shape[0], 1)
    return losses.sum() / counts.sum().clamp(min=1)


def weight_of(reduction: str, rows: int, symmetric: bool = False) -> float:
    """Of each loss, of rows and of as many columns if ``symmetric``, in their "mean" or "sum"."""
    return 1 / ((max(rows, 1) if reduction == "mean" else 1) * (2 if symmetric else 1))


def cross_entropy(
    lse: Tensor, positive: Tensor, count: Tensor, smoothing: float = 0.0, mean: Tensor | None = None
) -> Tensor:
    """[B]: of each row against the uniform distribution over its positives, given the sum and number of their logits; 0
    where there are none. ``smoothing`` is the share of the target that all columns divide, ``mean`` the mean of logits.
    """
    target = positive / count.clamp(min=1)
    if mean is not None:
        target = target.lerp(mean, smoothing)
    return torch.where(count > 0, lse - target, 0)
