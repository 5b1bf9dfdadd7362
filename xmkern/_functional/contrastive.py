"""The public contrastive losses of pairs: a row has one column of its own."""

from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import Tensor

from xmkern._functional.similarities import (
    Operands,
    check_ids,
    check_reduction,
    check_symmetric,
    cross_entropy,
    inverse_norms,
    label_ids,
    number,
    ones,
    operands,
    reduced,
    weight_of,
    without_autocast,
)
from xmkern.ops.contrastive import Pairs, loss_of_similarities, reduce_similarities
from xmkern.ops.gradient import distinct, graded
from xmkern.ops.linear import linear

_Reduction = Literal["mean", "sum", "none"]


@overload
def info_nce(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor,
    *,
    logit_bias: float | Tensor | None = None,
    labels: int | Tensor | None = None,
    negatives: Tensor | tuple[Tensor | None, Tensor | None] | None = None,
    label_smoothing: float = 0.0,
    symmetric: bool = True,
    reduction: _Reduction = "mean",
    return_lse: Literal[False] = False,
    normalize: bool = False,
    backend: str = "auto",
) -> Tensor: ...
@overload
def info_nce(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor,
    *,
    logit_bias: float | Tensor | None = None,
    labels: int | Tensor | None = None,
    negatives: Tensor | tuple[Tensor | None, Tensor | None] | None = None,
    label_smoothing: float = 0.0,
    symmetric: bool = True,
    reduction: _Reduction = "mean",
    return_lse: Literal[True],
    normalize: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, ...]: ...
def info_nce(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor,
    *,
    logit_bias: float | Tensor | None = None,
    labels: int | Tensor | None = None,
    negatives: Tensor | tuple[Tensor | None, Tensor | None] | None = None,
    label_smoothing: float = 0.0,
    symmetric: bool = True,
    reduction: _Reduction = "mean",
    return_lse: bool = False,
    normalize: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, ...]:
    """The cross-entropy of each row of logit_scale * x y^T + logit_bias against its label, the matrix never made.

    CLIP's loss (Radford et al., 2021, figure 3), that of van den Oord et al. (2018) where not ``symmetric``,
    with a queue as MoCo (He et al., 2020) and COTS (Lu et al., 2022) have it. Memory, of the forward and of what
    is kept for the backward, is that of the arguments and some numbers a row. Sums are in float32 for float32, bfloat16
    and float16; float64 is served by the reference. Under autocast, x, y and negatives are cast as a matrix product
    casts them. Gradients come for x, y, negatives, logit_scale and logit_bias.

    Args:
        x: [B, D], the rows.
        y: [N, D], the columns; N = B where ``symmetric``.
        logit_scale: a number, or a tensor of one element: the inverse temperature itself, not its logarithm.
        logit_bias: likewise; it moves the log-sum-exp and not the loss.
        labels: which column is the row's own. By default row i's is column i; an int is added to i (the place of a
            rank's rows among all columns); or int64 [B]. A row whose label is outside 0 to N - 1 is left out, as -100
            leaves it out of ``torch.nn.functional.cross_entropy``.
        negatives: [M, D], further columns of the rows, which are nobody's label; or a pair, the second of which are
            further rows of the columns (``symmetric`` only); either may be None.
        label_smoothing: the share of the target that all columns, negatives included, divide among them.
        symmetric: whether to average the loss of the rows with that of the columns against the row of their label. A
            column is weighted as often as it is a label; labels are usually a permutation.
        reduction: ``"mean"`` over the rows that are not left out (0 if all are), ``"sum"``, or ``"none"``, [B], where a
            row's loss is averaged with that of its label's column.
        return_lse: whether to return the log-sum-exps too, negatives included.
        normalize: whether to divide x, y and negatives by their L2 norms, at least 1e-12, without copies of them.

    Returns:
        The loss in float32 (float64 for float64); with ``return_lse`` also that of the rows [B] and, if ``symmetric``,
        of the columns [N].

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    check_reduction(reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be 0 to 1, not {label_smoothing}")
    matrix = operands(x, y, logit_scale, logit_bias, normalize)
    check_symmetric(symmetric, x, y)
    x_ids, y_ids = label_ids(labels, x, y)
    row_negatives, column_negatives = negatives if isinstance(negatives, tuple) else (negatives, None)
    if column_negatives is not None and not symmetric:
        raise ValueError("negatives must not be for the columns where symmetric is False")

    pairs = Pairs(x_ids, y_ids)
    plain = not (isinstance(labels, Tensor) or negatives is not None or label_smoothing or return_lse)
    if plain and reduction != "none":
        weight = weight_of(reduction, x.shape[0], symmetric)
        loss = loss_of_similarities(*matrix, pairs, kind="logsumexp", columns=symmetric, weight=weight, backend=backend)
        if loss is not None:
            return loss
    found = reduce_similarities(*matrix, pairs, kind="logsumexp", columns=symmetric, backend=backend)
    more = None if row_negatives is None else _beside(matrix, "x", row_negatives, 1.0, normalize)
    lse = _with_negatives(found.value, more, backend)
    mean = _mean_logits(matrix, more) if label_smoothing > 0 else None
    losses = cross_entropy(lse, found.positive, found.count, label_smoothing, mean)
    lses: tuple[Tensor, ...] = (lse,)
    if symmetric:
        mirrored = Operands(matrix.y, matrix.x, matrix.y_scale, matrix.x_scale, matrix.bias)
        scale = number("logit_scale", logit_scale, matrix.x)
        more = None if column_negatives is None else _beside(mirrored, "y", column_negatives, scale, normalize)
        lse = _with_negatives(found.column_value, more, backend)
        mean = _mean_logits(mirrored, more) if label_smoothing > 0 else None
        of_columns = cross_entropy(lse, found.column_positive, found.column_count, label_smoothing, mean)
        if isinstance(labels, Tensor):
            of_columns = torch.where(found.count > 0, of_columns[labels.clamp(0, y.shape[0] - 1)], 0)
        losses = (losses + of_columns) / 2
        lses = (*lses, lse)
    loss = reduced(losses, reduction, found.count if isinstance(labels, Tensor) else None)
    return (loss, *lses) if return_lse else loss


def _beside(matrix: Operands, name: str, negatives: Any, scale: float | Tensor, normalize: bool) -> Operands:
    """The same rows, of this name, against other columns."""
    y = operands(matrix.x, negatives, names=(name, "negatives", "logit_scale")).y
    return matrix._replace(y=y, y_scale=scale * (inverse_norms(y) if normalize else ones(y)))


def _with_negatives(lse: Tensor, more: Operands | None, backend: str) -> Tensor:
    if more is None:
        return lse
    return torch.logaddexp(lse, reduce_similarities(*more, kind="logsumexp", columns=False, backend=backend).value)


def _mean_logits(matrix: Operands, more: Operands | None) -> Tensor:
    """[B]: the mean of each row of both"""
    parts = [matrix] if more is None else [matrix, more]
    total = sum(part.y.shape[0] for part in parts)
    call: Callable[..., Tensor] = _WeightedLogits.apply if graded(*matrix, *(more or ())) else _weighted_logits
    return matrix.bias + sum(call(*distinct(part.x, part.y, part.x_scale, part.y_scale / total)) for part in parts)


def _weighted_logits(x: Tensor, y: Tensor, x_scale: Tensor, weights: Tensor) -> Tensor:
    """The sum of weights[j] * x_scale[i] * <x[i], y[j]> over j: the product with one weighted sum of the columns."""
    with without_autocast(x):
        return _times(x.to(weights.dtype), _times(y.to(weights.dtype).t(), weights)) * x_scale


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """[R] of [R, N] and [N]. By our own product, since the BLAS's sums may depend on the number of threads."""
    return linear(matrix, vector[None], None, "auto")[:, 0]


class _WeightedLogits(torch.autograd.Function):
    """What autograd would do too, but for copies of x and y in float32, which it would keep."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return _weighted_logits(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, y, x_scale, weights = ctx.saved_tensors
        wide_x, wide_y, slope = x.to(grad.dtype), y.to(grad.dtype), grad * x_scale
        with without_autocast(x):
            centre, grad_centre = _times(wide_y.t(), weights), _times(wide_x.t(), slope)
            grads_of_scales = grad * _times(wide_x, centre), _times(wide_y, grad_centre)
        grads = torch.outer(slope, centre).to(x.dtype), torch.outer(weights, grad_centre).to(y.dtype)
        return *grads, *grads_of_scales


def sigmoid_contrastive(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None = None,
    *,
    labels: int | Tensor | None = None,
    x_ids: Tensor | None = None,
    y_ids: Tensor | None = None,
    reduction: _Reduction = "mean",
    normalize: bool = False,
    backend: str = "auto",
) -> Tensor:
    """SigLIP's loss (Zhai et al., 2023): each pair by itself is positive or not.

    The sum over all pairs of softplus(-z) where they are positive and softplus(z) where not, with z = logit_scale *
    x y^T + logit_bias. Memory and numbers are as in :func:`info_nce`.

    Args:
        x: [B, D], the rows.
        y: [N, D], the columns.
        logit_scale: a number, or a tensor of one element: the inverse temperature itself, not its logarithm.
        logit_bias: likewise; 0 by default.
        labels: which column is positive to a row: None (row i's is column i), an int that is added to i, or int64 [B],
            where a number outside 0 to N - 1 stands for none.
        x_ids: int64 [B], instead of labels: pairs of equal ids are positive.
        y_ids: int64 [N], given with x_ids.
        reduction: ``"mean"``, the sum divided by B, as in the paper; ``"sum"``; or ``"none"``, [B], sums of the rows.
        normalize: whether to divide x and y by their L2 norms, at least 1e-12, without copies of them.

    Returns:
        The loss in float32 (float64 for float64).
    """
    check_reduction(reduction)
    matrix = operands(x, y, logit_scale, logit_bias, normalize)
    if x_ids is None and y_ids is None:
        pairs = Pairs(*label_ids(labels, x, y))
    elif labels is not None:
        raise ValueError("labels must be None where x_ids are given")
    else:
        pairs = Pairs(check_ids("x_ids", x_ids, x.shape[0], x), check_ids("y_ids", y_ids, y.shape[0], x))
    if reduction != "none":
        weight = weight_of(reduction, x.shape[0])
        loss = loss_of_similarities(*matrix, pairs, kind="softplus", columns=False, weight=weight, backend=backend)
        if loss is not None:
            return loss
    found = reduce_similarities(*matrix, pairs, kind="softplus", columns=False, backend=backend)
    return reduced(found.value, reduction)
