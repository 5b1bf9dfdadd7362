"""Two ways to show a rank the rows of all ranks, and to bring home to a rank what all make of its rows.

A *visit* takes tensors of some rows each and returns others of as many rows. What several visits, of several ranks,
return for the same rows is *merged*, two at a time.
"""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

Tensors = tuple[Tensor, ...]
Visit = Callable[..., Tensors]
Merge = Callable[[Tensors, Tensors], Tensors]


def ring(rows: Tensors, visit: Visit, merge: Merge, sizes: Sequence[int], group: dist.ProcessGroup | None) -> Tensors:
    """A visit for the rows of each rank in turn: they go round, and what the visits return follows one step behind.

    A rank holds the rows of two ranks at a time, and what was returned for three. Both exchanges of a step are under
    way while its successor, or it, computes.

    Args:
        rows: this rank's tensors, of ``sizes[rank]`` rows each.
        sizes: the number of rows of every rank.

    Returns:
        What all ranks' visits returned for this rank's rows, merged.
    """
    rank, world = dist.get_rank(group), len(sizes)
    if world == 1:
        return visit(*rows)
    returned: Callable[[], Tensors] | None = None
    for step in range(world):
        # These rows are of rank - step, and those at the left are of the rank before.
        size = sizes[(rank - step - 1) % world]
        following = _pass_on(rows, size, group) if step + 1 < world else None
        found = visit(*rows)
        if returned is not None:
            found = merge(returned(), found)
        returned = _pass_on(found, size, group)
        rows = following() if following is not None else ()
    assert returned is not None
    return returned()


def _pass_on(own: Tensors, size: int, group: dist.ProcessGroup | None) -> Callable[[], Tensors]:
    """Begins to send to the right and to receive the like, of this many rows, from the left; returns what waits."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    incoming = tuple(x.new_empty(size, *x.shape[1:]) for x in own)
    transfers = [dist.P2POp(dist.isend, x.contiguous(), group=group, group_peer=(rank + 1) % world) for x in own]
    transfers += [dist.P2POp(dist.irecv, x, group=group, group_peer=(rank - 1) % world) for x in incoming]
    works = dist.batch_isend_irecv(transfers) if transfers else []

    def wait() -> Tensors:
        for work in works:
            work.wait()
        return incoming

    return wait


def gather(rows: Tensors, visit: Visit, merge: Merge, sizes: Sequence[int], group: dist.ProcessGroup | None) -> Tensors:
    """One visit for the rows of all ranks, in their order; arguments and result as of :func:`ring`."""
    found = visit(*(_all_rows(x, sizes, group) for x in rows))
    return reduce(merge, zip(*(_to_owners(x, sizes, group) for x in found), strict=True)) if found else ()


def _all_rows(x: Tensor, sizes: Sequence[int], group: dist.ProcessGroup | None) -> Tensor:
    most = max(sizes)
    own = pad(x, (0, 0) * (x.dim() - 1) + (0, most - x.shape[0])) if min(sizes) < most else x.contiguous()
    everything = own.new_empty(len(sizes) * most, *x.shape[1:])
    parts = everything.tensor_split(len(sizes))
    dist.all_gather(list(parts), own, group=group)  # not every backend gathers parts that differ in size
    if min(sizes) == most:
        return everything
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def _to_owners(x: Tensor, sizes: Sequence[int], group: dist.ProcessGroup | None) -> Tensors:
    """What each rank has for this rank's rows, by rank.

    A reduce-scatter, before its sum, which is so taken in an order that does not depend on the machine.
    """
    size, world = sizes[dist.get_rank(group)], len(sizes)
    pieces = x.new_empty(world, size, *x.shape[1:])
    dist.all_to_all_single(pieces.flatten(0, 1), x.contiguous(), [size] * world, list(sizes), group=group)
    return pieces.unbind()
