"""Softmax statistics of the rows and columns of logits that are scores of late interaction: operators, the gradient.

They go over strips of samples of x by the operators of ``max_similarity``, twice, so that neither the scores nor the
winners of all pairs are ever in memory.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmkern.ops.gradient import distinct, run_backward
from xmkern.ops.late_interaction.op import LAUNCHERS, max_similarity_backward, max_similarity_forward
from xmkern.ops.registry import Backend, Op

_STRIP = 2**26  # bytes of scores and winners; at least one sample of x


class Statistics(NamedTuple):
    """Of each row, or column: the log-sum-exp of its logits, their sum over its positive pairs, and over all."""

    lse: Tensor
    positive: Tensor
    total: Tensor


def statistics(logits: Tensor, positive: Tensor) -> Statistics:
    """Of the rows of [B, N]; the pairs that are positive: bool [B, N]."""
    return Statistics(logits.logsumexp(1), torch.where(positive, logits, 0).sum(1), logits.sum(1))


def bytes_of_pairs(x: Tensor, y: Tensor) -> int:
    """How much memory the scores and the winners of one sample of x take."""
    R, (N, T, _) = x.shape[1], y.shape
    return N * (8 + R * (1 if T <= 256 else 2) + T * (1 if R <= 256 else 2))


def _strips(x: Tensor, y: Tensor) -> Iterator[slice]:
    height = max(_STRIP // max(bytes_of_pairs(x, y), 1), 1)
    return (slice(first, first + height) for first in range(0, x.shape[0], height))


def _part(mask: Tensor | None, rows: slice) -> Tensor | None:
    return None if mask is None else mask[rows]


def _forward(
    kind: str,
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None,
    y_mask: Tensor | None,
    scale: Tensor,
    x_ids: Tensor,
    y_ids: Tensor,
    mean: bool,
    both: bool,
) -> tuple[Tensor, ...]:
    """-> the statistics of the rows [B], by the scores of x's tokens, and of the columns [N], by those of y's tokens
    (of no elements unless ``both``)"""
    of_rows = Statistics(*(scale.new_empty(x.shape[0]) for _ in range(3)))
    of_columns = Statistics(*(scale.new_zeros(y.shape[0] if both else 0) for _ in range(3)))
    of_columns.lse.fill_(-torch.inf)
    for rows in _strips(x, y):
        x_scores, y_scores, *_ = max_similarity_forward(
            x[rows], y, _part(x_mask, rows), y_mask, mean, both, backend=kind
        )
        positive = x_ids[rows, None] == y_ids
        for whole, part in zip(of_rows, statistics(scale * x_scores, positive), strict=True):
            whole[rows] = part
        if both:
            more = statistics(scale * y_scores.mT, positive.mT)
            torch.logaddexp(of_columns.lse, more.lse, out=of_columns.lse)
            of_columns.positive.add_(more.positive)
            of_columns.total.add_(more.total)
    return *of_rows, *of_columns


def _backward(
    kind: str,
    grad_lse: Tensor,
    grad_positive: Tensor,
    grad_total: Tensor,
    grad_column_lse: Tensor,
    grad_column_positive: Tensor,
    grad_column_total: Tensor,
    row_lse: Tensor,
    column_lse: Tensor,
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None,
    y_mask: Tensor | None,
    scale: Tensor,
    x_ids: Tensor,
    y_ids: Tensor,
    mean: bool,
    both: bool,
    x_grad: bool,
    y_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """-> the gradients of x, y and scale; of x and y no elements where they are not wanted"""
    grad_x, grad_scale = x.new_empty(x.shape if x_grad else 0), torch.zeros_like(scale)
    grad_y = y.new_zeros(y.shape if y_grad else 0, dtype=scale.dtype)  # a sum over strips: not rounded in between
    for rows in _strips(x, y):
        sides = x[rows], y, _part(x_mask, rows), y_mask
        x_scores, y_scores, *winners = max_similarity_forward(*sides, mean, both, backend=kind)
        positive = x_ids[rows, None] == y_ids
        slopes = _slopes(
            scale * x_scores, positive, row_lse[rows], grad_lse[rows], grad_positive[rows], grad_total[rows]
        )
        grad_scale += (slopes * x_scores).sum()
        column_slopes = None
        if both:
            column_slopes = _slopes(
                scale * y_scores.mT, positive.mT, column_lse, grad_column_lse, grad_column_positive, grad_column_total
            ).mT
            grad_scale += (column_slopes * y_scores).sum()
            column_slopes = scale * column_slopes
        grads = max_similarity_backward(
            scale * slopes, column_slopes, *sides, *winners, mean, x_grad, y_grad, backend=kind
        )
        if x_grad:
            grad_x[rows] = grads[0]
        grad_y += grads[1]
    return grad_x, grad_y.to(y.dtype), grad_scale


def _slopes(
    logits: Tensor, positive: Tensor, lse: Tensor, grad_lse: Tensor, grad_positive: Tensor, grad_total: Tensor
) -> Tensor:
    """How the statistics of the rows, each times its gradient, change with the logits."""
    weights = grad_lse[:, None] * (logits - lse[:, None]).exp()
    return weights + torch.where(positive, grad_positive[:, None], 0) + grad_total[:, None]


def _backends(run: Callable[..., Any], first: int) -> list[Backend]:
    """One for each of ``max_similarity``; ``first``: the place of x among the arguments."""
    fast = [
        Backend(kind, partial(run, kind), lambda *args, own=own: own.refuses(*args[first : first + 2]))
        for kind, own in LAUNCHERS.items()
    ]
    return [*fast, Backend("reference", partial(run, "reference"))]


def _fake_forward(x: Tensor, y: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    scale, both = rest[2], rest[-1]
    columns = y.shape[0] if both else 0
    return tuple(scale.new_empty(size) for size in (*[x.shape[0]] * 3, *[columns] * 3))


def _fake_backward(*args: Any) -> tuple[Tensor, ...]:
    wanted = {8: args[-2], 9: args[-1], 12: True}
    return tuple(args[i].new_empty(args[i].shape if want else (0,)) for i, want in wanted.items())


def _sample() -> tuple[Any, ...]:
    # Whole numbers: no rounding decides between two similarities.
    x, y = (torch.randint(-3, 4, shape).float() for shape in ((5, 9, 24), (6, 20, 24)))
    masks = (torch.rand(5, 9) < 0.8, torch.rand(6, 20) < 0.8)
    return x, y, *masks, torch.tensor(0.3), torch.arange(5), torch.arange(6), True, True


def _sample_backward() -> tuple[Any, ...]:
    args = _sample()
    found = _forward("reference", *args)
    return *map(torch.randn_like, found), found[0], found[3], *args, True, True


_OPERANDS = (
    "Tensor x, Tensor y, Tensor? x_mask, Tensor? y_mask, Tensor scale, Tensor x_ids, Tensor y_ids, bool mean, bool both"
)

max_similarity_statistics = Op(
    f"max_similarity_statistics({_OPERANDS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    backends=_backends(_forward, 0),
    fake=_fake_forward,
    sample=_sample,
)

max_similarity_statistics_backward = Op(
    "max_similarity_statistics_backward(Tensor grad_lse, Tensor grad_positive, Tensor grad_total, "
    "Tensor grad_column_lse, Tensor grad_column_positive, Tensor grad_column_total, Tensor row_lse, "
    f"Tensor column_lse, {_OPERANDS}, bool x_grad, bool y_grad) -> (Tensor, Tensor, Tensor)",
    backends=_backends(_backward, 8),
    fake=_fake_backward,
    sample=_sample_backward,
)


class _Statistics(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return max_similarity_statistics.overload(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options = inputs[7:]
        ctx.save_for_backward(*inputs[:7], output[0], output[3])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # read once: checkpointing makes them anew, and for one reading
        operands, lses = saved[:7], saved[7:]
        x_grad, y_grad = ctx.needs_input_grad[:2]
        mean, both, backend = ctx.options
        args = (*grads, *lses, *operands, mean, both, x_grad, y_grad, backend)
        grad_x, grad_y, grad_scale = run_backward(
            max_similarity_statistics_backward, *args, dispatched=True, what="late_interaction_info_nce"
        )
        return grad_x if x_grad else None, grad_y if y_grad else None, None, None, grad_scale, *(None,) * 5


def score_statistics(
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None,
    y_mask: Tensor | None,
    scale: Tensor,
    x_ids: Tensor,
    y_ids: Tensor,
    *,
    mean: bool = True,
    both: bool = True,
    backend: str = "auto",
) -> tuple[Statistics, Statistics]:
    """Statistics of the rows [B], whose logits are scale times the scores of x's tokens, and of the columns [N], with
    those of y's tokens (of no elements unless ``both``); with gradients for x, y and scale. A pair is positive where
    x_ids [B] and y_ids [N] are equal. Kept for the backward: the arguments, and a number of a row and column."""
    found = _Statistics.apply(*distinct(x, y, x_mask, y_mask, scale, x_ids, y_ids), mean, both, backend)
    return Statistics(*found[:3]), Statistics(*found[3:])
