"""Hamming search in codes that are spread over processes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from xmkern._functional.hamming import Array
from xmkern.distributed import exchange
from xmkern.hamming import BinaryIndex
from xmkern.hamming.index import continued


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
                in a shard, those of the first rank first: those of codes that were removed may be given again.

        Raises:
            ValueError: an id comes twice or is there already, or only some ranks gave ids, or what a rank gave is
                nothing for BinaryIndex (there, its own error). On every rank, and nothing is added.
        """
        known = self.shard.ids

        def own() -> tuple[int, np.ndarray | None, int]:
            rows, given = self.shard._checked(codes, ids)
            return len(rows), given, int(known.max(initial=-1))

        counts, given, largest = zip(*self._from_all(own), strict=True)
        if len({each is None for each in given}) > 1:
            raise ValueError("ids must be given by all ranks or by none")
        rank = dist.get_rank(self.group)
        if ids is None:
            new = continued(max(largest), counts[rank], sum(counts[:rank]), sum(counts[rank + 1 :]))
        else:
            together, new = np.concatenate(given), given[rank]
            taken = sum(self._from_all(lambda: int(np.isin(together, known).sum())))
            if taken or len(np.unique(together)) < len(together):
                raise ValueError(f"ids must be new to all shards and differ from each other, also between ranks: {ids}")
        self.shard.add(codes, new)

    def search(self, queries: Array, k: int) -> tuple[Array, Array]:
        """The k nearest codes in all shards of each of this rank's queries uint8 [Q, W], nearest first.

        Queries are this rank's own, and Q may differ among ranks and be 0; k is the same on all.

        Returns:
            distances int32 [Q, k] in bits and ids int64 [Q, k]; where there are fewer than k codes, -1 and -1.

        Raises:
            ValueError: a rank's queries are nothing for BinaryIndex (there, its own error). On every rank.
        """
        sizes = self._from_all(lambda: len(self.shard._codes("queries", queries)))
        rows = torch.from_numpy(self.shard._codes("queries", queries))
        distances, ids = exchange.gather(
            (rows,), lambda all_rows: self.shard.search(all_rows, k), _nearer, sizes, self.group
        )
        return (distances, ids) if isinstance(queries, Tensor) else (distances.numpy(), ids.numpy())

    def _from_all(self, own: Callable[[], Any]) -> list[Any]:
        """What each rank has, by rank. Where one raises, all do, that none waits for it."""
        told: list[Any] = [None] * dist.get_world_size(self.group)
        mine, error = None, None
        try:
            mine = own()
        except Exception as raised:
            error = raised
        dist.all_gather_object(told, (mine, error and str(error)), group=self.group)
        if error is not None:
            raise error
        for rank, (_, why) in enumerate(told):
            if why is not None:
                raise ValueError(f"of rank {rank}: {why}")
        return [each for each, _ in told]


def _nearer(some: tuple[Tensor, ...], more: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The k nearest of twice k, distances [Q, k] and ids [Q, k] each; of equal ones the former come first."""
    k = some[0].shape[1]
    distances, ids = (torch.cat(pair, 1) for pair in zip(some, more, strict=True))
    absent_last = torch.where(distances < 0, torch.iinfo(distances.dtype).max, distances)
    order = absent_last.sort(dim=1, stable=True).indices[:, :k]
    return distances.gather(1, order), ids.gather(1, order)
