"""The public contrastive losses of classes: a row has several columns of its own."""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from xmkern._functional.similarities import (
    Operands,
    check_choice,
    check_ids,
    check_reduction,
    check_symmetric,
    cross_entropy,
    label_ids,
    operands,
    reduced,
    weight_of,
)
from xmkern.ops.contrastive import Pairs, loss_of_similarities, reduce_similarities

_Reduction = Literal["mean", "sum", "none"]


@overload
def multi_positive_info_nce(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor,
    *,
    x_ids: Tensor,
    y_ids: Tensor | None = None,
    logit_bias: float | Tensor | None = None,
    same_class: Literal["positive", "hidden"] = "positive",
    symmetric: bool = True,
    reduction: _Reduction = "mean",
    return_lse: Literal[False] = False,
    normalize: bool = False,
    backend: str = "auto",
) -> Tensor: ...
@overload
def multi_positive_info_nce(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor,
    *,
    x_ids: Tensor,
    y_ids: Tensor | None = None,
    logit_bias: float | Tensor | None = None,
    same_class: Literal["positive", "hidden"] = "positive",
    symmetric: bool = True,
    reduction: _Reduction = "mean",
    return_lse: Literal[True],
    normalize: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, ...]: ...
def multi_positive_info_nce(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor,
    *,
    x_ids: Tensor,
    y_ids: Tensor | None = None,
    logit_bias: float | Tensor | None = None,
    same_class: Literal["positive", "hidden"] = "positive",
    symmetric: bool = True,
    reduction: _Reduction = "mean",
    return_lse: bool = False,
    normalize: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, ...]:
    """The cross-entropy of each row of logit_scale * x y^T against all columns of its class, the matrix never made.

    The target of a row is uniform over the columns of the same id, and that of a column over the rows: the
    unified contrastive loss of UniCL (Yang et al., 2022) and Florence (Yuan et al., 2021). With ``same_class="hidden"``
    the target of row i is column i alone, and other columns of its class are left out of the sum, as in the sentence
    loss of DAMSM (Xu et al., 2018). Memory and numbers are as in :func:`info_nce`.

    Args:
        x: [B, D], the rows.
        y: [N, D], the columns.
        logit_scale: a number, or a tensor of one element: the inverse temperature itself, not its logarithm.
        x_ids: int64 [B], the class of each row.
        y_ids: int64 [N], the class of each column; by default those of the rows.
        logit_bias: a number, or a tensor of one element; it moves the log-sum-exp and not the loss.
        same_class: what a pair of one class is: positive, or, unless it is the row's own, left out (needs B <= N).
        symmetric: whether to average the loss of the rows with that of the columns.
        reduction: ``"mean"`` over the rows, and over the columns, that have a positive (0 if none has), ``"sum"``, or
            ``"none"``, [B], where the losses of row i and column i are averaged (N = B if ``symmetric``).
        return_lse: whether to return the log-sum-exps too, of what is not left out.
        normalize: whether to divide x and y by their L2 norms, at least 1e-12, without copies of them.

    Returns:
        The loss in float32 (float64 for float64); with ``return_lse`` also that of the rows [B] and, if ``symmetric``,
        of the columns [N].
    """
    check_reduction(reduction)
    check_choice("same_class", same_class, "positive", "hidden")
    matrix = operands(x, y, logit_scale, logit_bias, normalize)
    x_ids = check_ids("x_ids", x_ids, x.shape[0], x)
    y_ids = check_ids("y_ids", x_ids if y_ids is None else y_ids, y.shape[0], x)
    if reduction == "none":
        check_symmetric(symmetric, x, y)
    pairs = Pairs(x_ids, y_ids) if same_class == "positive" else Pairs(*label_ids(None, x, y), x_ids, y_ids)
    # Then every row and column has a positive, and there are as many of both.
    plain = y.shape[0] == x.shape[0] and (y_ids is x_ids or same_class == "hidden") and not return_lse
    if plain and reduction != "none":
        weight = weight_of(reduction, x.shape[0], symmetric)
        loss = loss_of_similarities(*matrix, pairs, kind="logsumexp", columns=symmetric, weight=weight, backend=backend)
        if loss is not None:
            return loss
    found = reduce_similarities(*matrix, pairs, kind="logsumexp", columns=symmetric, backend=backend)
    loss = reduced(cross_entropy(*found[:3]), reduction, found.count > 0)
    lses: tuple[Tensor, ...] = (found.value,)
    if symmetric:
        of_columns = cross_entropy(*found[3:])
        loss = (loss + reduced(of_columns, reduction, found.column_count > 0)) / 2
        lses = (*lses, found.column_value)
    return (loss, *lses) if return_lse else loss


def mil_nce(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor = 1.0,
    *,
    x_ids: Tensor | None = None,
    y_ids: Tensor | None = None,
    denominator: Literal["joint", "rows", "separate"] = "joint",
    reduction: _Reduction = "mean",
    normalize: bool = False,
    backend: str = "auto",
) -> Tensor:
    """-log of the share that a row's positives together have of exp(logit_scale * x y^T) (Miech et al., 2020).

    Several candidates stand for a row, as captions near a clip do, and it is enough that one fits: positives are
    pooled by log-sum-exp where :func:`multi_positive_info_nce` averages them. The denominator of ``"joint"`` is that of
    the paper and of UniVL (Luo et al., 2020): the row, and the columns of its positives, every pair once
    (Miech's published code counts the positives twice). ``"rows"`` has the row alone; ``"separate"`` averages that with
    the loss of the columns against their positive rows. Memory and numbers are as in :func:`info_nce`.

    Args:
        x: [B, D], the rows.
        y: [N, D], the columns. Without ids, N = B * P and the positives of row i are columns i * P to i * P + P - 1.
        logit_scale: a number, or a tensor of one element.
        x_ids: int64 [B]; a pair of equal ids is positive. No two rows share one where the denominator is ``"joint"``.
        y_ids: int64 [N], given with x_ids.
        denominator: see above.
        reduction: ``"mean"`` over the rows (columns) that have a positive (0 if none has), ``"sum"``, or ``"none"``, of
            the rows [B] (with ``"separate"`` N = B, and losses of row i and column i are averaged).
        normalize: whether to divide x and y by their L2 norms, at least 1e-12, without copies of them.

    Returns:
        The loss in float32 (float64 for float64).
    """
    check_reduction(reduction)
    check_choice("denominator", denominator, "joint", "rows", "separate")
    matrix = operands(x, y, logit_scale, None, normalize)
    pairs = _candidates(x_ids, y_ids, matrix)
    if reduction == "none":
        check_symmetric(denominator == "separate", x, y)
    found = reduce_similarities(*matrix, pairs, kind="mil", columns=denominator != "rows", backend=backend)
    lse, counted = found.value, found.count > 0
    if denominator == "joint":
        # The log-sum-exp of the columns' own ones, over those of each row: another matrix of similarities, of depth 1.
        one = torch.ones_like(lse)
        columns = reduce_similarities(
            one[:, None], found.column_value[:, None], one, torch.ones_like(found.column_value), one.new_zeros(()),
            pairs, kind="mil", columns=False, backend=backend,
        ).positive  # fmt: skip
        lse = _logsumexp_once(lse, columns, found.positive, counted)
    loss = reduced(torch.where(counted, lse - found.positive, 0), reduction, counted)
    if denominator == "separate":
        counted = found.column_count > 0
        of_columns = torch.where(counted, found.column_value - found.column_positive, 0)
        loss = (loss + reduced(of_columns, reduction, counted)) / 2
    return loss


def _candidates(x_ids: Any, y_ids: Any, matrix: Operands) -> Pairs:
    B, N = matrix.x.shape[0], matrix.y.shape[0]
    if (x_ids is None) != (y_ids is None):
        raise ValueError("x_ids and y_ids must be given together, or neither")
    if x_ids is not None:
        return Pairs(check_ids("x_ids", x_ids, B, matrix.x), check_ids("y_ids", y_ids, N, matrix.x))
    if N % B if B else N:
        raise ValueError(f"y must have B * P rows with B = {B}, or ids be given, not {N}")
    rows = torch.arange(B, device=matrix.x.device)
    return Pairs(rows, rows.repeat_interleave(N // max(B, 1), output_size=N))


def _logsumexp_once(rows: Tensor, columns: Tensor, both: Tensor, counted: Tensor) -> Tensor:
    """log(exp rows + exp columns - exp both), where both is no more than either; rows where nothing counts."""
    most = torch.where(counted, torch.maximum(rows, columns), 0).detach()
    rows, columns, both = (torch.where(counted, part - most, 0) for part in (rows, columns, both))
    return most + (rows.exp() + (columns.exp() - both.exp())).log()
