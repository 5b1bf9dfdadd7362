"""Reductions of a matrix of similarities whose rows and columns are spread over the ranks of a process group."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmkern.distributed.exchange import Merge, Tensors, Visit
from xmkern.ops.contrastive import similarity_reduce, similarity_reduce_backward

# exchange.ring or exchange.gather, with its sizes and its group
Exchange = Callable[[Tensors, Visit, Merge], Tensors]


class Reduced(NamedTuple):
    """Of this rank's rows, over the columns of all ranks; and of its columns, over the rows of all."""

    value: Tensor
    positive: Tensor
    column_value: Tensor
    column_positive: Tensor


def reduce_similarities(
    x: Tensor,
    y: Tensor,
    x_scale: Tensor,
    y_scale: Tensor,
    bias: Tensor,
    x_ids: Tensor,
    y_ids: Tensor,
    *,
    kind: str,
    columns: bool,
    exchange: Exchange,
    backend: str,
) -> Reduced:
    """As ``xmkern.ops.contrastive.reduce_similarities``, for the kinds ``"logsumexp"`` and ``"softplus"``.

    x and y are this rank's. Gradients are those of the sum over the ranks of all that they make of their results, for
    this rank's own x, y, x_scale, y_scale and bias; a logit is made with the bias of the rank of its row.
    """
    return Reduced(*_Reduce.apply(x, y, x_scale, y_scale, bias, x_ids, y_ids, kind, columns, exchange, backend))


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        x_scale: Tensor,
        y_scale: Tensor,
        bias: Tensor,
        x_ids: Tensor,
        y_ids: Tensor,
        kind: str,
        columns: bool,
        exchange: Exchange,
        backend: str,
    ) -> Tensors:
        joins: tuple[Callable[..., Tensor], ...] = (torch.logaddexp if kind == "logsumexp" else torch.add, torch.add)
        own: list[Tensors] = []

        def merge(some: Tensors, more: Tensors) -> Tensors:
            return tuple(join(a, b) for join, a, b in zip(joins, some, more, strict=False))  # there may be none

        def visit(y: Tensor, y_scale: Tensor, y_ids: Tensor) -> Tensors:
            pairs = (x_ids, y_ids, *(None,) * 5)
            found = similarity_reduce(x, y, x_scale, y_scale, bias, *pairs, kind, columns, backend=backend)
            own[:] = [merge(own[0], found[:2]) if own else found[:2]]
            return found[3:5] if columns else ()

        of_columns = exchange((y, y_scale, y_ids), visit, merge)
        return *own[0], *(of_columns or (x_scale.new_empty(0), x_scale.new_empty(0)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.options = inputs[7:]
        ctx.save_for_backward(*inputs[:7], *output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError("contrastive losses have a first derivative only: create_graph must be False")
        x, y, x_scale, y_scale, bias, x_ids, y_ids, *results = ctx.saved_tensors
        kind, columns, exchange, backend = ctx.options
        x_grad, y_grad = ctx.needs_input_grad[0], ctx.needs_input_grad[1] or ctx.needs_input_grad[3]
        own: list[Tensors] = []
        of_columns = (*grads[2:], *results[2:])
        rows = (y, y_scale, y_ids, *of_columns) if columns else (y, y_scale, y_ids)

        def merge(some: Tensors, more: Tensors) -> Tensors:
            return tuple(map(torch.add, some, more))

        def visit(y: Tensor, y_scale: Tensor, y_ids: Tensor, *theirs: Tensor) -> Tensors:
            theirs = theirs or of_columns  # which are empty where there are none
            found = similarity_reduce_backward(
                *grads[:2], *theirs[:2], x, y, x_scale, y_scale, bias, x_ids, y_ids, *(None,) * 5,
                *results[:2], *theirs[2:], kind, columns, x_grad, y_grad, backend=backend,
            )  # fmt: skip
            # Sums over ranks are in float32, whatever the dtype of x and y.
            grad_x, grad_y, grad_x_scale, grad_y_scale, grad_bias = (each.to(x_scale.dtype) for each in found)
            mine = (grad_x, grad_x_scale, grad_bias)
            own[:] = [merge(own[0], mine) if own else mine]
            return (grad_y, grad_y_scale) if y_grad else ()

        grad_y, grad_y_scale = exchange(rows, visit, merge) or (None, None)
        grad_x, grad_x_scale, grad_bias = own[0]
        if grad_y is not None:
            grad_y = grad_y.to(y.dtype)
        return grad_x.to(x.dtype) if x_grad else None, grad_y, grad_x_scale, grad_y_scale, grad_bias, *(None,) * 6
