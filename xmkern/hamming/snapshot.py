"""One state of an index: immutable, so that a search may hold it while the index moves on."""

from dataclasses import dataclass, replace

import numpy as np

from xmkern import functional
from xmkern.hamming.mih import Tables

# Rows newer than the tables are scanned, and the tables rebuilt when there are more than this share of them.
_TAIL_SHARE, _TAIL_ROWS = 1 / 16, 4096

TopK = tuple[np.ndarray, np.ndarray]
Range = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Snapshot:
    """N codes and their ids, in the order in which they were added.

    ``codes`` and ``ids`` are the first N rows of buffers that may have room for more. Rows past N belong to nobody, so
    the newest snapshot, and it alone, may be grown in place.
    """

    codes: np.ndarray  # uint8 [N, W]
    ids: np.ndarray  # int64 [N]
    largest: int = -1
    ascending: bool = True
    tables: Tables | None = None

    @staticmethod
    def empty(width: int) -> "Snapshot":
        return Snapshot(np.empty((0, width), np.uint8), np.empty(0, np.int64))

    @staticmethod
    def of(codes: np.ndarray, ids: np.ndarray) -> "Snapshot":
        largest = int(ids.max()) if len(ids) else -1
        return Snapshot(codes, ids, largest, bool(np.all(ids[1:] > ids[:-1])))

    def grown(self, codes: np.ndarray, ids: np.ndarray) -> "Snapshot":
        """With the rows appended. The ids must be new."""
        if not len(ids):
            return self
        follows = bool(ids[0] > self.largest and np.all(ids[1:] > ids[:-1]))
        return replace(
            self,
            codes=append(self.codes, codes),
            ids=append(self.ids, ids),
            largest=max(self.largest, int(ids.max())),
            ascending=self.ascending and follows,
        )

    def without(self, positions: np.ndarray) -> "Snapshot":
        keep = np.ones(len(self.ids), bool)
        keep[positions] = False
        return Snapshot.of(self.codes[keep], self.ids[keep])

    def positions(self, ids: np.ndarray) -> np.ndarray:
        """Where the ids are, ascending; those that are not here are passed over."""
        if not self.ascending:
            return np.flatnonzero(np.isin(self.ids, ids))
        ids = np.unique(ids)
        places = np.searchsorted(self.ids, ids)
        inside = places < len(self.ids)
        places, ids = places[inside], ids[inside]
        return places[self.ids[places] == ids]

    def tables_are_stale(self) -> bool:
        tail = len(self.ids) - (len(self.tables) if self.tables else 0)
        return tail > max(_TAIL_ROWS, _TAIL_SHARE * len(self.ids)) or (self.tables is None and tail > 0)

    def with_tables(self, bits: int) -> "Snapshot":
        return replace(self, tables=Tables(self.codes, bits))

    def topk(self, queries: np.ndarray, k: int, allowed: np.ndarray | None, hashed: bool) -> TopK:
        """-> distances int32 [Q, k], ids int64 [Q, k]; allowed: int64 positions."""
        if allowed is not None:
            distances, places = functional.hamming_topk(queries, self.codes[allowed], k)
            return distances, _pick(self.ids[allowed], places)
        if hashed and self.tables:
            distances, places = self.tables.topk(queries, self.codes, k)
        else:
            distances, places = functional.hamming_topk(queries, self.codes, k)
        return distances, _pick(self.ids, places)

    def range(self, queries: np.ndarray, radius: int, allowed: np.ndarray | None, hashed: bool) -> Range:
        """-> lims int64 [Q + 1], distances int32, ids int64; allowed: int64 positions."""
        if allowed is not None:
            lims, distances, places = functional.hamming_range(queries, self.codes[allowed], radius)
            return lims, distances, self.ids[allowed][places]
        if hashed and self.tables:
            lims, distances, places = self.tables.range(queries, self.codes, radius)
        else:
            lims, distances, places = functional.hamming_range(queries, self.codes, radius)
        return lims, distances, self.ids[places]


def append(rows: np.ndarray, new: np.ndarray) -> np.ndarray:
    """rows with new ones behind, in the buffer that rows begins if that has room, else in one twice as large."""
    count, total = len(rows), len(rows) + len(new)
    buffer = rows.base if isinstance(rows.base, np.ndarray) and rows.base.ndim == rows.ndim else rows
    if len(buffer) < total:
        buffer = np.empty((max(total, 2 * count), *rows.shape[1:]), rows.dtype)
        buffer[:count] = rows
    buffer[count:total] = new
    return buffer[:total]


def _pick(ids: np.ndarray, places: np.ndarray) -> np.ndarray:
    """ids[places], and -1 where the place is -1."""
    return np.append(ids, -1)[places] if len(ids) == 0 else np.where(places < 0, -1, ids[places])
