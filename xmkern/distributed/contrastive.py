"""Contrastive losses of a global batch."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from xmkern._functional.similarities import check_choice, operands
from xmkern.distributed import exchange as exchanges
from xmkern.distributed.similarities import Reduced, reduce_similarities


def info_nce(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor,
    *,
    logit_bias: float | Tensor | None = None,
    symmetric: bool = True,
    normalize: bool = False,
    exchange: Literal["ring", "gather"] = "ring",
    sizes: Sequence[int] | None = None,
    group: dist.ProcessGroup | None = None,
    backend: str = "auto",
) -> Tensor:
    """:func:`xmkern.functional.info_nce` of the global batch, whose rows and columns are spread over ranks.

    Every rank of the group calls it with its own rows, and with the same other arguments; row i of x and row i of y
    are a pair. With ``"ring"`` a rank holds O(B D) at a time: the rows of y go round (Liu et al., Ring Attention, 2023;
    Cheng et al., Breaking the Memory Barrier, 2024), the reductions and gradients of the columns follow, and both are
    under way while a block is computed. With ``"gather"`` it holds the y of all ranks and computes in one piece, which
    suits small shares. Either way a pair is computed by one rank alone.

    Let L be the loss of the global batch and W the number of ranks. A rank gets what its own rows and columns add to
    W L, which is their mean where all ranks have as many; so the mean over ranks is L. Gradients are those of the sum
    over ranks, W L: for x and y the rank's rows of W dL/dx and W dL/dy, and for the scale and bias shares whose mean
    over ranks is dL/dscale and dL/dbias. So parameters get the gradient of L where gradients are averaged over ranks,
    as ``DistributedDataParallel`` and FSDP do it. That is the convention of open_clip's ``local_loss`` with
    ``gather_with_grad``.

    Args:
        x: [B, D], the rank's rows.
        y: [B, D], the rank's columns.
        logit_scale: a number, or a tensor of one element: the inverse temperature itself, not its logarithm.
        logit_bias: likewise; it moves the log-sum-exp and not the loss.
        symmetric: whether to average the loss of the rows with that of the columns.
        normalize: whether to divide x and y by their L2 norms, at least 1e-12, without copies of them.
        exchange: how a rank comes to see the y of the others.
        sizes: the B of each rank, in their order; by default all have this rank's.
        group: by default all processes.

    Returns:
        The rank's share, in float32 (float64 for float64).

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    found, share = _reduce(
        x, y, logit_scale, logit_bias, normalize, exchange, sizes, group, backend, kind="logsumexp", columns=symmetric
    )
    losses = found.value - found.positive
    if symmetric:
        losses = (losses + found.column_value - found.column_positive) / 2
    return losses.sum() * share


def sigmoid_contrastive(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None = None,
    *,
    normalize: bool = False,
    exchange: Literal["ring", "gather"] = "ring",
    sizes: Sequence[int] | None = None,
    group: dist.ProcessGroup | None = None,
    backend: str = "auto",
) -> Tensor:
    """:func:`xmkern.functional.sigmoid_contrastive` of the global batch, whose rows and columns are spread over ranks.

    A rank's share is that of its rows and all columns. Arguments, the scaling of the loss and that of the gradients are
    as in :func:`info_nce`.
    """
    found, share = _reduce(
        x, y, logit_scale, logit_bias, normalize, exchange, sizes, group, backend, kind="softplus", columns=False
    )
    return found.value.sum() * share


def _reduce(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None,
    normalize: bool,
    exchange: str,
    sizes: Sequence[int] | None,
    group: dist.ProcessGroup | None,
    backend: str,
    *,
    kind: str,
    columns: bool,
) -> tuple[Reduced, float]:
    """-> the reductions, and what their sum is multiplied by, such that the mean over ranks is that over all rows."""
    check_choice("exchange", exchange, "ring", "gather")
    matrix = operands(x, y, logit_scale, logit_bias, normalize)
    rank, world, rows = dist.get_rank(group), dist.get_world_size(group), x.shape[0]
    if y.shape[0] != rows:
        raise ValueError(f"y must have as many rows as x, {rows}, not {y.shape[0]}")
    sizes = [rows] * world if sizes is None else list(sizes)
    if len(sizes) != world or sizes[rank] != rows:
        raise ValueError(f"sizes must be {world} numbers of rows, and {rows} that of rank {rank}, not {sizes}")
    ids = torch.arange(rows, device=x.device) + sum(sizes[:rank])
    walk = exchanges.ring if exchange == "ring" else exchanges.gather
    found = reduce_similarities(
        *matrix, ids, ids, kind=kind, columns=columns, exchange=partial(walk, sizes=sizes, group=group), backend=backend
    )
    return found, world / max(sum(sizes), 1)
