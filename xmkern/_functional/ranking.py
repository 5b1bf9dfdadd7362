"""The public ranking loss: a row's own column against its rivals, by a margin."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from xmkern._functional.similarities import (
    Operands,
    check_choice,
    check_ids,
    check_reduction,
    check_symmetric,
    label_ids,
    operands,
    reduced,
)
from xmkern.ops.contrastive import Pairs, reduce_similarities
from xmkern.ops.dtype import wide_dtype
from xmkern.ops.gradient import distinct, graded

_EULER = 0.5772156649015329


def ranking_loss(
    x: Tensor,
    y: Tensor,
    *,
    margin: float,
    mode: Literal["sum", "hardest", "warp"] = "sum",
    labels: int | Tensor | None = None,
    x_ids: Tensor | None = None,
    y_ids: Tensor | None = None,
    symmetric: bool = True,
    logit_scale: float | Tensor = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    normalize: bool = False,
    backend: str = "auto",
) -> Tensor:
    """relu(margin - s(i, own) + s(i, j)) over the rivals j of each row i, with s = logit_scale * x y^T, never made.

    - ``"sum"``: their sum, as in DeViSE (Frome et al., 2013), and in both directions in Kiros et al. (2014).
    - ``"hardest"``: the greatest of them, as in VSE++ (Faghri et al., 2018).
    - ``"warp"``: their sum times L(rank) / rank with L(k) = 1 + 1/2 + ... + 1/k, where rank is how many are above
      zero, and has no gradient: WSABIE (Weston et al., 2011), whose rank is exact here instead of sampled.

    Memory, of the forward and of what is kept for the backward, is that of the arguments and some numbers a row;
    while at work ``"hardest"`` takes that of a dozen copies of x in float32 too, the others of three. Sums are in
    float32 for float32, bfloat16 and float16; float64 is served by the reference. Under autocast x and y are cast as a
    matrix product casts them.

    Args:
        x: [B, D], the rows.
        y: [N, D], the columns.
        margin: what the row's own similarity is to be ahead of every rival's.
        mode: see above.
        labels: which column is the row's own: None (row i's is column i), an int that is added to i, or, where not
            ``symmetric``, int64 [B], where a number outside 0 to N - 1 leaves the row out.
        x_ids: int64 [B], a class of each row: columns of the same class are no rivals. By default only the own is none.
        y_ids: int64 [N], a class of each column; by default those of the rows.
        symmetric: whether to add the loss of the columns against the rows (N = B).
        logit_scale: a number, or a tensor of one element, that similarities are multiplied with.
        reduction: ``"mean"`` over the rows that are not left out (0 if all are), ``"sum"``, as in the papers, or
            ``"none"``, [B], where the loss of column i is added to that of row i.
        normalize: whether to divide x and y by their L2 norms, at least 1e-12: s is the cosine then.

    Returns:
        The loss in float32 (float64 for float64).

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    check_reduction(reduction)
    check_choice("mode", mode, "sum", "hardest", "warp")
    matrix = operands(x, y, logit_scale, None, normalize)
    check_symmetric(symmetric, x, y)
    if symmetric and isinstance(labels, Tensor):
        raise ValueError("labels must be None where symmetric is True: let the rows of y be in the order of those of x")
    if y.shape[0] == 0 and x.shape[0] > 0:
        raise ValueError("y must have at least one row where x has any")
    own, columns = label_ids(labels, x, y)
    counted = (own >= 0) & (own < y.shape[0]) if isinstance(labels, Tensor) else None
    pairs = Pairs(own, columns, *_classes(x_ids, y_ids, x, y))
    if counted is not None:
        own = torch.where(counted, own, 0)
    losses = _hardest if mode == "hardest" else _weighted
    return reduced(losses(matrix, pairs, own, counted, margin, mode, symmetric, backend), reduction, counted)


def _classes(x_ids: Any, y_ids: Any, x: Tensor, y: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if x_ids is None:
        if y_ids is not None:
            raise ValueError("x_ids must be given where y_ids are")
        return None, None
    return check_ids("x_ids", x_ids, x.shape[0], x), check_ids(
        "y_ids", x_ids if y_ids is None else y_ids, y.shape[0], x
    )


def _weighted(
    matrix: Operands,
    pairs: Pairs,
    own: Tensor,
    counted: Tensor | None,
    margin: float,
    mode: str,
    symmetric: bool,
    backend: str,
) -> Tensor:
    rows = torch.arange(own.shape[0], device=own.device)
    with torch.no_grad():
        offset = margin - _logits(*matrix, rows, own)
    if counted is not None:
        offset = torch.where(counted, offset, -torch.inf)
    pairs = pairs._replace(x_offset=offset, y_offset=offset if symmetric else None)
    found = reduce_similarities(*matrix, pairs, kind="hinge", columns=symmetric, backend=backend)
    values, ranks = [found.value, found.column_value], [found.count, found.column_count]
    if mode == "warp":
        values = [value * _warp(rank).to(value.dtype) for value, rank in zip(values, ranks, strict=True)]
    return values[0] + values[1] if symmetric else values[0]


def _warp(rank: Tensor) -> Tensor:
    """(1 + 1/2 + ... + 1/rank) / rank, 0 for a rank of 0"""
    most = rank.clamp(min=1).double()
    return torch.where(rank > 0, (torch.digamma(most + 1) + _EULER) / most, 0)


def _hardest(
    matrix: Operands,
    pairs: Pairs,
    own: Tensor,
    counted: Tensor | None,
    margin: float,
    mode: str,
    symmetric: bool,
    backend: str,
) -> Tensor:
    found = reduce_similarities(*matrix, pairs, kind="maximum", columns=symmetric, backend=backend)
    rows, places = torch.arange(own.shape[0], device=own.device), [found.count, found.column_count][: 1 + symmetric]
    i = [rows, rows, *(place.clamp(min=0) for place in places[1:])]
    j = [own, places[0].clamp(min=0), *(rows for _ in places[1:])]
    call: Callable[..., Tensor] = _PairLogits.apply if graded(*matrix) else _logits
    mine, *rivals = call(*distinct(*matrix), torch.cat(i), torch.cat(j)).chunk(len(i))
    losses = torch.zeros_like(mine)
    for place, rival in zip(places, rivals, strict=True):
        losses = losses + torch.where(place >= 0, margin - mine + rival, 0).relu()
    return losses if counted is None else torch.where(counted, losses, 0)


def _logits(x: Tensor, y: Tensor, x_scale: Tensor, y_scale: Tensor, bias: Tensor, i: Tensor, j: Tensor) -> Tensor:
    dtype = wide_dtype(x.dtype)
    return (x[i].to(dtype) * y[j].to(dtype)).sum(1) * x_scale[i] * y_scale[j] + bias


class _PairLogits(torch.autograd.Function):
    """The logits of some pairs, at rows i [P] and columns j [P]. What reaches a row from several of its pairs is added
    before it is rounded to the row's dtype, and no rows that were picked out are kept for the backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return _logits(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, x_scale, y_scale, _, i, j = ctx.saved_tensors
        x_rows, y_rows = x[i].to(grad.dtype), y[j].to(grad.dtype)
        products = grad * (x_rows * y_rows).sum(1)
        slope = (grad * x_scale[i] * y_scale[j])[:, None]

        def gathered(whole: Tensor, places: Tensor, parts: Tensor) -> Tensor:
            return torch.zeros_like(whole, dtype=grad.dtype).index_add(0, places, parts).to(whole.dtype)

        return (
            gathered(x, i, slope * y_rows),
            gathered(y, j, slope * x_rows),
            gathered(x_scale, i, products * y_scale[j]),
            gathered(y_scale, j, products * x_scale[i]),
            grad.sum(),
            None,
            None,
        )
