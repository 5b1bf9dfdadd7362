"""Hamming search in codes that are spread over processes."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from xmkern._functional.hamming import Array
from xmkern.distributed import exchange
from xmkern.hamming import BinaryIndex


class ShardedBinaryIndex:
    """A :class:`xmkern.hamming.BinaryIndex` whose codes are spread over the ranks of a process group.

    :meth:`add` and :meth:`search` are called by every rank of the group at once. What a search finds is what one index
    would to which the shards had been added one after the other: of equal distances, those of the smaller rank come
    first, and of one rank's those added earlier.

    Args:
        bits, method: as for BinaryIndex; the same on all ranks.
        group: by default all processes. It must carry tensors of the CPU, as gloo does.

    Attributes:
        shard: this rank's BinaryIndex. What concerns it alone, as ``remove``, ``save`` and ``len``, is done there; a
            shard that was loaded may be put in its place.
    """

    def __init__(self, bits: int, method: str = "flat", group: dist.ProcessGroup | None = None) -> None:
        self.shard = BinaryIndex(bits, method)
        self.group = group

    def __repr__(self) -> str:
        rank, world = dist.get_rank(self.group), dist.get_world_size(self.group)
        return f"ShardedBinaryIndex, {rank} of {world}: {self.shard!r}"

    def add(self, codes: Array, ids: Any = None) -> None:
        """Adds codes uint8 [N, W] to this rank's shard; N may differ among ranks, and may be 0.

        Args:
            ids: int64 [N], new to all shards; given by all ranks or by none. By default they continue from the largest
                so far, those of the first rank first.

        Raises:
            ValueError: on every rank, where an id comes twice or is there already, or only some ranks gave ids; on
                this rank alone, as of BinaryIndex.
        """
        given = None if ids is None else np.asarray(ids)
        known = self.shard.ids
        told = self._from_all((len(codes), given, int(known.max(initial=-1))))
        if len({ids is None for _, ids, _ in told}) > 1:
            raise ValueError("ids must be given by all ranks or by none")
        if given is None:
            before = sum(count for count, _, _ in told[: dist.get_rank(self.group)])
            first = max(largest for _, _, largest in told) + 1 + before
            given = np.arange(first, first + len(codes))
        else:
            new = np.concatenate([ids for _, ids, _ in told])
            taken = sum(self._from_all(int(np.isin(new, known).sum())))
            if taken or len(np.unique(new)) < len(new):
                raise ValueError(f"ids must be new to all shards and differ from each other, also between ranks: {ids}")
        self.shard.add(codes, given)

    def search(self, queries: Array, k: int) -> tuple[Array, Array]:
        """The k nearest codes in all shards of each of this rank's queries uint8 [Q, W], nearest first.

        Queries are this rank's own, and Q may differ among ranks and be 0; k is the same on all.

        Returns:
            distances int32 [Q, k] in bits and ids int64 [Q, k]; where there are fewer than k codes, -1 and -1.
        """
        rows = torch.from_numpy(self.shard._codes("queries", queries))
        sizes = self._from_all(len(rows))
        distances, ids = exchange.gather(
            (rows,), lambda all_rows: self.shard.search(all_rows, k), _nearer, sizes, self.group
        )
        return (distances, ids) if isinstance(queries, Tensor) else (distances.numpy(), ids.numpy())

    def _from_all(self, own: Any) -> list[Any]:
        """What each rank has, by rank."""
        told = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(told, own, group=self.group)
        return told


def _nearer(some: tuple[Tensor, ...], more: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The k nearest of twice k, distances [Q, k] and ids [Q, k] each; of equal ones the former come first."""
    k = some[0].shape[1]
    distances, ids = (torch.cat(pair, 1) for pair in zip(some, more, strict=True))
    absent_last = torch.where(distances < 0, torch.iinfo(distances.dtype).max, distances)
    order = absent_last.sort(dim=1, stable=True).indices[:, :k]
    return distances.gather(1, order), ids.gather(1, order)
