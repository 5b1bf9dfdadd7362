"""Reductions of a matrix of similarities in plain PyTorch: what the kernels mean.

The matrix of logits is ``z[i, j] = x_scale[i] * y_scale[j] * <x[i], y[j]> + bias``. Pairs (i, j) are of three sorts:

- *positive* where ``x_ids[i] == y_ids[j]`` (labels, picture ids), or where ``relevance[i, j]``;
- *hidden* where ``x_groups[i] == y_groups[j]`` and the pair is not positive: they count for nothing;
- all others are negative.
"""

import torch
from torch import Tensor

KINDS = ("logsumexp", "mil", "softplus", "hinge", "maximum", "margin")  # the order is that of the kernels


def similarity_reduce(
    x: Tensor,
    y: Tensor,
    x_scale: Tensor,
    y_scale: Tensor,
    bias: Tensor,
    x_ids: Tensor | None,
    y_ids: Tensor | None,
    x_groups: Tensor | None,
    y_groups: Tensor | None,
    relevance: Tensor | None,
    x_offset: Tensor | None,
    y_offset: Tensor | None,
    kind: str,
    columns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """-> value, positive [B] and count [B] of the rows, then of the columns [N] (of no elements unless ``columns``).

    ====================  ==================================  =============================  ============
    kind                  value                               positive                       count (int64)
    ====================  ==================================  =============================  ============
    ``"logsumexp"``       log sum exp z                       sum of z over positives        positives
    ``"mil"``             log sum exp z                       log sum exp z over positives   positives
    ``"softplus"``        sum softplus(-z if positive else z) 0                              positives
    ``"hinge"``           sum relu(z + offset) of negatives   sum of z over positives        z + offset > 0
    ``"margin"``          sum relu(offset - z if positive     0                              positives
                          else offset + z)
    ``"maximum"``         max of z over negatives             sum of z over positives        its place, or -1
    ====================  ==================================  =============================  ============

    All but ``"maximum"`` and the counts have a gradient.
    """
    with torch.autocast(x.device.type, enabled=False):  # the dtypes are settled before an operator is called
        z = (x @ y.mT).to(x_scale.dtype) * x_scale[:, None] * y_scale + bias
    positive, hidden = _sorts(z, x_ids, y_ids, x_groups, y_groups, relevance)
    rows = _reduce(z, positive, hidden, x_offset, kind)
    if columns:
        return *rows, *_reduce(z.mT, positive.mT, hidden.mT, y_offset, kind)
    value, pull, count = rows
    return value, pull, count, value.new_empty(0), pull.new_empty(0), count.new_empty(0)


def _reduce(
    z: Tensor, positive: Tensor, hidden: Tensor, offset: Tensor | None, kind: str
) -> tuple[Tensor, Tensor, Tensor]:
    negative = ~(positive | hidden)
    count = positive.sum(1)
    pull = torch.where(positive, z, 0).sum(1)
    if kind == "logsumexp":
        return z.masked_fill(hidden, -torch.inf).logsumexp(1), pull, count
    if kind == "mil":
        pooled = z.masked_fill(~positive, -torch.inf).logsumexp(1)
        return z.masked_fill(hidden, -torch.inf).logsumexp(1), pooled, count
    if kind == "softplus":
        terms = -torch.nn.functional.logsigmoid(torch.where(positive, z, -z))
        return torch.where(hidden, 0, terms).sum(1), torch.zeros_like(pull), count
    if kind == "margin":
        assert offset is not None
        over = offset[:, None] + torch.where(positive, -z, z)
        return torch.where(hidden, 0, over.relu()).sum(1), torch.zeros_like(pull), count
    if kind == "hinge":
        assert offset is not None
        over = torch.where(negative, z + offset[:, None], 0)
        return over.relu().sum(1), pull, (over > 0).sum(1)
    rivals = z.masked_fill(~negative, -torch.inf)
    if not z.shape[1]:
        return z.new_full(z.shape[:1], -torch.inf), pull, count - 1
    value, place = rivals.max(1)
    return value, pull, torch.where(negative.any(1), place, -1)


def similarity_reduce_backward(
    grad_row_value: Tensor,
    grad_row_positive: Tensor,
    grad_column_value: Tensor,
    grad_column_positive: Tensor,
    x: Tensor,
    y: Tensor,
    x_scale: Tensor,
    y_scale: Tensor,
    bias: Tensor,
    x_ids: Tensor | None,
    y_ids: Tensor | None,
    x_groups: Tensor | None,
    y_groups: Tensor | None,
    relevance: Tensor | None,
    x_offset: Tensor | None,
    y_offset: Tensor | None,
    row_value: Tensor,
    row_positive: Tensor,
    column_value: Tensor,
    column_positive: Tensor,
    kind: str,
    columns: bool,
    x_grad: bool,
    y_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """-> gradients of x, y, x_scale, y_scale and bias; of x and y no elements where they are not wanted.
    ``row_value`` and its like are the forward's, or, when the rows and columns are parts of longer ones, those of the
    whole."""
    with torch.autocast(x.device.type, enabled=False):
        products = (x @ y.mT).to(x_scale.dtype)
        z = products * x_scale[:, None] * y_scale + bias
        positive, hidden = _sorts(z, x_ids, y_ids, x_groups, y_groups, relevance)
        grad = _slopes(z, positive, hidden, x_offset, row_value, row_positive, grad_row_value, grad_row_positive, kind)
        if columns:
            grad = grad + _slopes(
                z.mT, positive.mT, hidden.mT, y_offset, column_value, column_positive,
                grad_column_value, grad_column_positive, kind,
            ).mT  # fmt: skip
        grad_products = (grad * x_scale[:, None] * y_scale).to(x.dtype)
        grad_x_scale = (grad * products * y_scale).sum(1)
        grad_y_scale = (grad * products * x_scale[:, None]).sum(0)
        grad_x = grad_products @ y if x_grad else x.new_empty(0)
        grad_y = grad_products.mT @ x if y_grad else y.new_empty(0)
        return grad_x, grad_y, grad_x_scale, grad_y_scale, grad.sum()


def _slopes(
    z: Tensor,
    positive: Tensor,
    hidden: Tensor,
    offset: Tensor | None,
    value: Tensor,
    pooled: Tensor,
    grad_value: Tensor,
    grad_positive: Tensor,
    kind: str,
) -> Tensor:
    """How the rows' reductions, each times its gradient, change with z."""
    push, pull = grad_value[:, None], grad_positive[:, None]
    if kind == "softplus":
        sign = torch.where(positive, -1.0, 1.0).to(z)
        return torch.where(hidden, 0, push * sign * (sign * z).sigmoid())
    if kind == "margin":
        assert offset is not None
        sign = torch.where(positive, -1.0, 1.0).to(z)
        return torch.where(~hidden & (offset[:, None] + sign * z > 0), push * sign, 0)
    if kind == "hinge":
        assert offset is not None
        over = ~(positive | hidden) & (z + offset[:, None] > 0)
        return torch.where(over, push, 0) + torch.where(positive, pull, 0)
    if kind == "logsumexp":
        drawn = torch.where(positive, pull, 0)
    else:
        drawn = torch.where(positive, pull * _weights(z, pooled), 0)
    return torch.where(hidden, 0, push * _weights(z, value)) + drawn


def _weights(z: Tensor, lse: Tensor) -> Tensor:
    """exp(z - lse) of each row; zero in a row of nothing, whose lse is -inf."""
    return (z - lse.masked_fill(lse == -torch.inf, torch.inf)[:, None]).exp()


def _sorts(
    z: Tensor,
    x_ids: Tensor | None,
    y_ids: Tensor | None,
    x_groups: Tensor | None,
    y_groups: Tensor | None,
    relevance: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Which pairs are positive, and which are hidden."""
    nothing = z.new_zeros(z.shape, dtype=torch.bool)
    positive = _equal(x_ids, y_ids, nothing) if relevance is None else relevance
    return positive, _equal(x_groups, y_groups, nothing) & ~positive


def _equal(x: Tensor | None, y: Tensor | None, nothing: Tensor) -> Tensor:
    return nothing if x is None or y is None else x[:, None] == y
