"""The public calls of late interaction."""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from xmkern._functional.similarities import (
    autocast,
    check_choice,
    check_reduction,
    check_symmetric,
    cross_entropy,
    inverse_norms,
    label_ids,
    number,
    reduced,
)
from xmkern.ops import late_interaction as _ops

_DTYPES = {torch.float32, torch.bfloat16, torch.float16, torch.float64}


@overload
def max_similarity(
    x_tokens: Tensor,
    y_tokens: Tensor,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    both: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...
@overload
def max_similarity(
    x_tokens: Tensor,
    y_tokens: Tensor,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    both: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...
def max_similarity(
    x_tokens: Tensor,
    y_tokens: Tensor,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    both: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """For all pairs of samples, the mean over x's tokens of the largest inner product with a token of y.

    The token-wise late interaction of FILIP (Yao et al., 2022) and Wukong (Gu et al., 2022); with the sum
    instead of the mean, that of ColBERT (Khattab and Zaharia, 2020), where x is the query. The tensor [B, N, R,
    T] of all similarities is never made. For the backward the winners are kept, a byte for each token of x and sample
    of y (two bytes for samples of more than 256 tokens), and as much for y's tokens where ``both``. Sums are in float32
    for float32, bfloat16 and float16; float64 is served by the reference. Under autocast, tokens are cast as a matrix
    product casts them.

    Args:
        x_tokens: [B, R, D].
        y_tokens: [N, T, D].
        x_mask: bool [B, R], True where there is a token; all by default. The others count for nothing.
        y_mask: bool [N, T], likewise.
        reduction: ``"mean"`` over a sample's tokens, as FILIP has it, or ``"sum"``, as ColBERT.
        both: whether to return the scores of y's tokens too, from the same products: for each pair, the mean, or sum,
            over y's tokens of the largest inner product with a token of x.

    Returns:
        [B, N] in float32 (float64 for float64); with ``both`` a pair of them. A pair where either sample has no token
        scores 0, and its gradient is zero. The gradient of a score reaches the winning token, of equal ones the first.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    check_choice("reduction", reduction, "mean", "sum")
    _check_tokens(x_tokens, y_tokens, x_mask, y_mask)
    x, y = _operands(x_tokens, y_tokens)
    of_x, of_y = _ops.max_similarity(x, y, x_mask, y_mask, mean=reduction == "mean", both=both, backend=backend)
    return (of_x, of_y) if both else of_x


def late_interaction_info_nce(
    x_tokens: Tensor,
    y_tokens: Tensor,
    logit_scale: float | Tensor,
    *,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    labels: int | Tensor | None = None,
    symmetric: bool = True,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    normalize: bool = False,
    recompute: bool | None = None,
    backend: str = "auto",
) -> Tensor:
    """The cross-entropy of each sample's scores of :func:`max_similarity`, times logit_scale, against its label.

    FILIP's loss (Yao et al., 2022): from x to y by the scores of x's tokens; from y to x, if ``symmetric``,
    by those of y's. Gradients come for x_tokens, y_tokens and logit_scale.

    Args:
        x_tokens: [B, R, D], the rows.
        y_tokens: [N, T, D], the columns; N = B where ``symmetric``.
        logit_scale: a number, or a tensor of one element: the inverse temperature itself, not its logarithm.
        x_mask: bool [B, R], True where there is a token; all by default. The others count for nothing, and all scores
            of a sample without tokens are 0.
        y_mask: bool [N, T], likewise.
        labels: which column is the row's own. By default row i's is column i; an int is added to i (the place of a
            rank's rows among all columns); or int64 [B]. A row whose label is outside 0 to N - 1 is left out, as -100
            leaves it out of ``torch.nn.functional.cross_entropy``.
        symmetric: whether to average the loss of the rows with that of the columns against the row of their label. A
            column is weighted as often as it is a label; labels are usually a permutation.
        label_smoothing: the share of the target that all columns divide among them.
        reduction: ``"mean"`` over the rows that are not left out (0 if all are), ``"sum"``, or ``"none"``, [B], where a
            row's loss is averaged with that of its label's column.
        normalize: whether to divide tokens by their L2 norms, at least 1e-12; the quotients are copies.
        recompute: whether to make the scores again in the backward, which takes as much time as the forward once more,
            instead of keeping them and the winners: R + T bytes, and some, for each pair of samples (see
            :func:`max_similarity`). No more than a fixed number of pairs is then in memory at once, in the forward as
            in the backward. By default True where what is kept would take more memory than the tokens do.

    Returns:
        The loss in float32 (float64 for float64).

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    check_reduction(reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be 0 to 1, not {label_smoothing}")
    _check_tokens(x_tokens, y_tokens, x_mask, y_mask)
    check_symmetric(symmetric, x_tokens, y_tokens)
    if normalize:
        x_tokens, y_tokens = _unit_tokens(x_tokens, x_mask), _unit_tokens(y_tokens, y_mask)
    x, y = _operands(x_tokens, y_tokens)
    x_ids, y_ids = label_ids(labels, x, y)
    scale = number("logit_scale", logit_scale, x)
    if recompute is None:
        recompute = x.shape[0] * _ops.bytes_of_pairs(x, y) > (x.numel() + y.numel()) * x.itemsize

    if recompute:
        of_rows, of_columns = _ops.score_statistics(
            x, y, x_mask, y_mask, scale, x_ids, y_ids, both=symmetric, backend=backend
        )
    else:
        x_scores, y_scores = _ops.max_similarity(x, y, x_mask, y_mask, both=symmetric, backend=backend)
        positive = x_ids[:, None] == y_ids
        of_rows = _ops.statistics(scale * x_scores, positive)
        if symmetric:
            of_columns = _ops.statistics(scale * y_scores.mT, positive.mT)

    counted = (x_ids >= 0) & (x_ids < y.shape[0])
    losses = _losses(of_rows, counted, y.shape[0], label_smoothing)
    if symmetric:
        own = x_ids.clamp(0, max(y.shape[0] - 1, 0))
        times = torch.zeros_like(y_ids).index_add(0, own, counted.long())
        losses = (losses + torch.where(counted, _losses(of_columns, times, x.shape[0], label_smoothing)[own], 0)) / 2
    return reduced(losses, reduction, counted if isinstance(labels, Tensor) else None)


def _losses(found: _ops.Statistics, count: Tensor, columns: int, smoothing: float) -> Tensor:
    mean = found.total / max(columns, 1) if smoothing > 0 else None
    return cross_entropy(found.lse, found.positive, count, smoothing, mean)


def _operands(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = autocast(x), autocast(y)
    if x.dtype not in _DTYPES or x.dtype != y.dtype:
        raise TypeError(
            "x_tokens and y_tokens must be of one dtype, float32, bfloat16, float16 or float64, "
            f"not {x.dtype} and {y.dtype}"
        )
    return x, y


def _unit_tokens(x: Tensor, mask: Tensor | None) -> Tensor:
    # What lies in the padding may be NaN, and the gradient of its norm with it.
    x = x if mask is None else x.masked_fill(~mask[..., None], 0)
    return (x * inverse_norms(x.flatten(0, 1)).view(*x.shape[:2], 1)).to(x.dtype)


def _check_tokens(x: Any, y: Any, x_mask: Any, y_mask: Any) -> None:
    for name, tokens, axes in (("x_tokens", x, "[B, R, D]"), ("y_tokens", y, "[N, T, D]")):
        if not isinstance(tokens, Tensor):
            raise TypeError(f"{name} must be a tensor, not {type(tokens).__name__}")
        if tokens.is_nested or tokens.layout != torch.strided:
            raise TypeError(f"{name} must be dense: pad it, and hide the padding by the mask")
        if tokens.dim() != 3 or tokens.shape[2] == 0:
            raise ValueError(f"{name} must have three axes, {axes} with D at least 1, not shape {list(tokens.shape)}")
    if y.shape[2] != x.shape[2]:
        raise ValueError(f"y_tokens must have D = {x.shape[2]} numbers a token as x_tokens has, not {y.shape[2]}")
    for name, mask, tokens in (("x_mask", x_mask, x), ("y_mask", y_mask, y)):
        if mask is None:
            continue
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(
                f"{name} must be a bool tensor, not {mask.dtype if isinstance(mask, Tensor) else type(mask).__name__}"
            )
        if mask.shape != tokens.shape[:2]:
            raise ValueError(f"{name} must be of shape {list(tokens.shape[:2])}, not {list(mask.shape)}")
    for name, tensor in (("y_tokens", y), ("x_mask", x_mask), ("y_mask", y_mask)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} must be on {x.device} as x_tokens is, not on {tensor.device}")
