"""How ``torch.vmap`` is served: the mapped axis becomes part of the batch."""

from typing import Any

import torch
from torch import Tensor

_SEED, _BUCKETS, _BIAS, _TENSORS = 9, 6, 5, 4  # places among the forward's arguments


def fold_forward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    if not _foldable(in_dims, args):
        return _one_by_one(torch.ops.xmkern.attention.default, info.batch_size, in_dims, args)
    count, batch = info.batch_size, _batch(args[0], in_dims[0])
    out, lse = torch.ops.xmkern.attention.default(*_folded(count, batch, in_dims, args, spread=False))
    return (out.unflatten(0, (count, batch)), lse.unflatten(0, (count, batch))), (0, 0)


def fold_backward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    call = torch.ops.xmkern.attention_backward.default
    # grad_out, grad_lse, out and lse are what the backward has besides the forward's arguments.
    forward_dims, forward_args = (*in_dims[2:5], *in_dims[7:14]), (*args[2:5], *args[7:14])
    if not _foldable(forward_dims, forward_args):
        return _one_by_one(call, info.batch_size, in_dims, args)
    count, batch, bias_grad = info.batch_size, _batch(args[2], in_dims[2]), args[14]
    folded = _folded(count, batch, forward_dims, forward_args, spread=bias_grad)
    given = [None if args[i] is None else _fold(args[i], in_dims[i], count, batch) for i in (0, 1, 5, 6)]
    *grads, grad_bias = call(*given[:2], *folded[:3], *given[2:], *folded[3:], *args[14:])
    grads = [grad.unflatten(0, (count, batch)) for grad in grads]
    if folded[_BIAS] is None or not bias_grad:
        return (*grads, grad_bias), (0, 0, 0, None)
    grad_bias = grad_bias.unflatten(0, (count, batch))
    if _batch(forward_args[_BIAS], forward_dims[_BIAS]) != batch:
        grad_bias = grad_bias.sum(1, keepdim=True)
    return (*grads, grad_bias), (0, 0, 0, 0)


def _batch(x: Tensor, dim: int | None) -> int:
    return x.shape[0 if dim != 0 else 1]


def _foldable(dims: tuple[Any, ...], args: tuple[Any, ...]) -> bool:
    """Not with buckets of its own for each element, and not with dropout, which is keyed by the place in the batch."""
    return args[_SEED] is None and dims[_BUCKETS] is None


def _fold(x: Tensor, dim: int | None, count: int, batch: int) -> Tensor:
    """[count, batch|1, ...] or, where ``dim`` is None, [batch|1, ...] -> [count * batch, ...]"""
    x = x.expand(count, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.expand(count, batch, *x.shape[2:]).flatten(0, 1)


def _folded(count: int, batch: int, dims: tuple[Any, ...], args: tuple[Any, ...], spread: bool) -> list[Any]:
    """The forward's arguments with the mapped axis in the batch; ``spread``: the bias too, for a gradient of each."""

    def folded(x: Tensor, dim: int | None, spread: bool) -> Tensor:
        shared = dim is None and x.dim() > 1 and x.shape[0] == 1 and not spread
        return x if shared else _fold(x, dim, count, batch)

    out = list(args)
    out[:3] = [_fold(x, dim, count, batch) for x, dim in zip(args[:3], dims[:3], strict=True)]
    tensor_dims = dims[_TENSORS] or [None] * len(args[_TENSORS])
    out[_TENSORS] = [folded(x, dim, False) for x, dim in zip(args[_TENSORS], tensor_dims, strict=True)]
    if args[_BIAS] is not None:
        out[_BIAS] = folded(args[_BIAS], dims[_BIAS], spread)
    return out


def _one_by_one(call: Any, count: int, dims: tuple[Any, ...], args: tuple[Any, ...]) -> tuple[Any, Any]:
    def element(x: Any, dim: Any, i: int) -> Any:
        if isinstance(x, list | tuple):
            each = dim if isinstance(dim, list | tuple) else [dim] * len(x)
            return [element(y, d, i) for y, d in zip(x, each, strict=True)]
        return x if dim is None else x.select(dim, i)

    results = [call(*(element(x, dim, i) for x, dim in zip(args, dims, strict=True))) for i in range(count)]
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0,) * len(results[0])
