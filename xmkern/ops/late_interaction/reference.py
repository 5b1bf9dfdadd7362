"""What late interaction means, in plain PyTorch, with every matrix written out. Named axes: README.md of this folder.

Products are in the inputs' own dtype, as a model in eager PyTorch makes them; scores are in float32, or float64 where
the inputs are.
"""

import torch
from torch import Tensor

from xmkern.ops.dtype import wide_dtype


def index_dtype(tokens: int) -> torch.dtype:
    """The smallest that has the places of so many tokens."""
    return torch.uint8 if tokens <= 256 else torch.int16 if tokens <= 2**15 else torch.int32


def max_similarity(
    x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None, mean: bool, both: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> scores [B, N] of x's tokens and of y's; winners [B, N, R] and [B, N, T].

    The score of x's tokens is their mean, or sum, of the largest similarity to a token of y; the winner is the place of
    that token, of equal ones the first. What a mask hides counts for nothing: its winner is 0, and so is the score of a
    sample without tokens, and with one. The results of y's tokens have no elements unless ``both``.
    """
    with _without_autocast(x):
        similarity = torch.einsum("brd,ntd->bnrt", x, y).to(wide_dtype(x.dtype))
    x_rows, y_rows = _visible(x, x_mask)[:, None, :], _visible(y, y_mask)[None, :, :]
    x_scores, x_winners = _reduce(similarity, x_rows, y_rows, mean)
    if not both:
        return x_scores, x_scores.new_empty(0), x_winners, x_winners.new_empty(0, dtype=index_dtype(x.shape[1]))
    y_scores, y_winners = _reduce(similarity.mT, y_rows, x_rows, mean)
    return x_scores, y_scores, x_winners, y_winners


def max_similarity_backward(
    grad_x_scores: Tensor,
    grad_y_scores: Tensor | None,
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None,
    y_mask: Tensor | None,
    x_winners: Tensor,
    y_winners: Tensor,
    mean: bool,
    x_grad: bool,
    y_grad: bool,
) -> tuple[Tensor, Tensor]:
    """-> the gradients of x and y, of no elements where not wanted; ``grad_y_scores`` is None where the forward was not
    asked for ``both``"""
    x_seen, y_seen = _visible(x, x_mask), _visible(y, y_mask)
    x_rows, y_rows = x_seen[:, None, :], y_seen[None, :, :]
    shape = (x.shape[0], y.shape[0], x.shape[1], y.shape[1])
    grad = _slopes(grad_x_scores, x_winners, x_rows, y_rows, mean, shape)
    if grad_y_scores is not None:
        grad = grad + _slopes(grad_y_scores, y_winners, y_rows, x_rows, mean, (*shape[:2], shape[3], shape[2])).mT
    grad = grad.to(x.dtype)
    with _without_autocast(x):  # zero times NaN is NaN: what lies in the padding must not get through
        of_x = torch.einsum("bnrt,ntd->brd", grad, y.masked_fill(~y_seen[..., None], 0)) if x_grad else x.new_empty(0)
        of_y = torch.einsum("bnrt,brd->ntd", grad, x.masked_fill(~x_seen[..., None], 0)) if y_grad else y.new_empty(0)
        return of_x, of_y


def _visible(x: Tensor, mask: Tensor | None) -> Tensor:
    return x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask


def _reduce(similarity: Tensor, rows: Tensor, columns: Tensor, mean: bool) -> tuple[Tensor, Tensor]:
    """The largest of each row of [B, N, R, T], and its mean or sum over the rows; rows [B|1, N|1, R]: which count."""
    counted = rows & columns.any(-1, keepdim=True)
    if similarity.shape[-1] == 0:
        best, winners = similarity.new_zeros(counted.shape), counted.long()
    else:
        best, winners = similarity.masked_fill(~columns[..., None, :], -torch.inf).max(-1)
        # Where all that is visible is -inf, so is what is hidden.
        winners = torch.where(best == -torch.inf, columns.byte().argmax(-1, keepdim=True), winners)
    scores = torch.where(counted, best, 0).sum(-1)
    if mean:
        scores = scores / rows.sum(-1).clamp(min=1)
    return scores, torch.where(counted, winners, 0).to(index_dtype(similarity.shape[-1]))


def _slopes(
    grad: Tensor, winners: Tensor, rows: Tensor, columns: Tensor, mean: bool, shape: tuple[int, int, int, int]
) -> Tensor:
    """How the scores, each times its gradient, change with the similarities [B, N, R, T]."""
    slopes = grad.new_zeros(shape)
    if slopes.numel() == 0:
        return slopes
    if mean:
        grad = grad / rows.sum(-1).clamp(min=1)
    counted = rows & columns.any(-1, keepdim=True)
    return slopes.scatter_(-1, winners.long()[..., None], torch.where(counted, grad[..., None], 0)[..., None])


def _without_autocast(x: Tensor) -> torch.autocast:
    # The operator's dtypes are settled before it is called.
    return torch.autocast(x.device.type, enabled=False)
