"""The index: ids, locking, and the choice between scanning and hashing."""

import operator
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmkern import native
from xmkern._functional.hamming import Array
from xmkern.hamming import storage
from xmkern.hamming.snapshot import Snapshot

_LARGEST_ID = 2**63 - 1
# What `auto` goes by: hashing pays for many codes and a small radius, and building costs as much as scanning for about
# so many queries a substring table (each code is moved once a table, and a move costs 300 words scanned).
_AUTO_ROWS, _AUTO_RADIUS, _AUTO_QUERIES = 1 << 16, 1 / 16, 1200


class BinaryIndex:
    """Exact nearest neighbours by Hamming distance among packed binary codes, each with an id.

    Codes and queries are uint8 [N, W] with W = ceil(bits / 8), as :func:`xmkern.functional.pack_bits` makes them; torch
    tensors or numpy arrays, and results are of the queries' kind. Equal distances are ordered by when a code was added.

    Any number of threads may search, add and remove at once: a search sees the index as it was before or after each
    change, never in between. Changes wait for each other.

    Args:
        bits: the length of a code, 1 to 4096.
        method: ``"flat"`` scans all codes. ``"mih"`` looks only at those that agree with the query in some substring
            (multi-index hashing): far faster where neighbours are near, at several times the memory; its tables are
            built by the first search. It needs the native extension. ``"auto"`` hashes for range searches of small
            radius, once there have been enough of them to pay for the tables. All give the same results.

    Example:
        >>> index = BinaryIndex(64)
        >>> index.add(pack_bits(embeddings))
        >>> distances, ids = index.search(pack_bits(queries), k=10)
    """

    def __init__(self, bits: int, method: str = "flat") -> None:
        self._bits = operator.index(bits)
        if not 1 <= self._bits <= storage.MAX_BITS:
            raise ValueError(f"bits must be 1 to {storage.MAX_BITS}, not {bits}")
        if method not in storage.METHODS:
            raise ValueError(f"method must be one of {', '.join(storage.METHODS)}, not {method!r}")
        if method == "mih":
            native.module()
        self._method = method
        self._lock = threading.Lock()  # held by who replaces the snapshot; searches only read it
        self._snapshot = Snapshot.empty((self._bits + 7) // 8)
        self._near_queries = 0

    @property
    def bits(self) -> int:
        return self._bits

    @property
    def method(self) -> str:
        return self._method

    @property
    def ids(self) -> np.ndarray:
        """int64 [N], in the order in which they were added. A copy."""
        return self._snapshot.ids.copy()

    def __len__(self) -> int:
        return len(self._snapshot.ids)

    def __repr__(self) -> str:
        return f"BinaryIndex(bits={self._bits}, method={self._method!r}) of {len(self)} codes"

    def add(self, codes: Array, ids: Any = None) -> None:
        """Adds codes uint8 [N, W], all or none.

        Args:
            ids: int64 [N], not negative, new to the index. By default they continue from the largest in it: those of
                codes that were removed may be given again.

        Raises:
            ValueError: an id is there already or comes twice; codes have another width, or bits set past the last.
        """
        rows, given = self._checked(codes, ids)
        with self._lock:
            now = self._snapshot
            if given is None:
                given = continued(now.largest, len(rows))
            elif len(given) and given.min() <= now.largest and len(known := now.positions(given)):
                raise ValueError(f"ids must be new to the index, as {now.ids[known[0]]} is not")
            self._snapshot = now.grown(rows, given)

    def remove(self, ids: Any) -> int:
        """Removes the codes of these ids and returns how many there were; unknown ids are passed over."""
        unwanted = _ids("ids", ids)
        with self._lock:
            places = self._snapshot.positions(unwanted)
            if len(places):
                self._snapshot = self._snapshot.without(places)
        return len(places)

    def search(self, queries: Array, k: int, allowed: Any = None) -> tuple[Array, Array]:
        """The k nearest codes of each query uint8 [Q, W], nearest first.

        Args:
            allowed: int64 [A]: only codes with one of these ids are looked at; unknown ids are passed over.

        Returns:
            distances int32 [Q, k] in bits and ids int64 [Q, k]; where there are fewer than k codes, -1 and -1.
        """
        rows = self._codes("queries", queries)
        k = operator.index(k)
        if k < 0:
            raise ValueError(f"k must not be negative, not {k}")
        hashed = self._method == "mih" and allowed is None
        snapshot = self._hashed() if hashed else self._snapshot
        places = None if allowed is None else snapshot.positions(_ids("allowed", allowed))
        distances, ids = snapshot.topk(rows, k, places, hashed)
        return _like(queries, distances), _like(queries, ids)

    def range_search(self, queries: Array, radius: int, allowed: Any = None) -> tuple[Array, Array, Array]:
        """All codes within a distance of each query uint8 [Q, W], nearest first.

        Args:
            radius: the largest distance that counts, in bits; a negative one finds nothing.
            allowed: as in :meth:`search`.

        Returns:
            lims int64 [Q + 1], distances int32 [R], ids int64 [R]: query q's lie at lims[q] : lims[q + 1].
        """
        rows = self._codes("queries", queries)
        radius = operator.index(radius)
        hashed = allowed is None and self._range_hashes(len(rows), radius)
        snapshot = self._hashed() if hashed else self._snapshot
        places = None if allowed is None else snapshot.positions(_ids("allowed", allowed))
        lims, distances, ids = snapshot.range(rows, radius, places, hashed)
        return _like(queries, lims), _like(queries, distances), _like(queries, ids)

    def save(self, path: storage.FilePath) -> None:
        """Writes the index to a file, whole or not at all: an old file stays until the new one is complete. A symbolic
        link is followed."""
        now = self._snapshot
        storage.save(path, self._bits, self._method, now.codes, now.ids)

    @classmethod
    def load(cls, path: storage.FilePath, mmap: bool = True) -> "BinaryIndex":
        """Reads what :meth:`save` wrote.

        Args:
            mmap: leave the codes in the file and let the system fetch them when they are looked at. The file must then
                not be changed in place (``save`` never does); changes to the index do not reach it.

        Raises:
            ValueError: the file is no index, or truncated, or altered.
        """
        return cls._of(*storage.load(path, mmap))

    @classmethod
    def _of(cls, bits: int, method: str, codes: np.ndarray, ids: np.ndarray) -> "BinaryIndex":
        index = cls(bits, method)
        index._snapshot = Snapshot.of(codes, ids)
        return index

    def __reduce__(self) -> tuple[Any, ...]:
        """For copy and pickle: with codes and ids of its own, for what grows in place cannot be shared."""
        now = self._snapshot
        return self._of, (self._bits, self._method, now.codes.copy(), now.ids.copy())

    def _range_hashes(self, queries: int, radius: int) -> bool:
        if self._method != "auto":
            return self._method == "mih"
        if native.why_missing() or len(self) < _AUTO_ROWS or not 0 <= radius <= _AUTO_RADIUS * self._bits:
            return False
        self._near_queries += queries  # a lost count among threads does no harm
        return self._near_queries >= _AUTO_QUERIES

    def _hashed(self) -> Snapshot:
        """The snapshot, its tables brought up to date."""
        if not self._snapshot.tables_are_stale():
            return self._snapshot
        with self._lock:
            if self._snapshot.tables_are_stale():
                self._snapshot = self._snapshot.with_tables(self._bits)
            return self._snapshot

    def _checked(self, codes: Any, ids: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """The arguments of :meth:`add`, which may still be at odds with what is in the index."""
        rows = self._codes("codes", codes)
        if ids is None:
            return rows, None
        given = _ids("ids", ids)
        if len(given) != len(rows):
            raise ValueError(f"ids must be as many as codes ({len(rows)}), not {len(given)}")
        if len(given) and given.min() < 0:
            raise ValueError(f"ids must not be negative, as {given.min()} is")
        if len(np.unique(given)) != len(given):
            raise ValueError("ids must differ from each other")
        return rows, given

    def _codes(self, name: str, x: Any) -> np.ndarray:
        if isinstance(x, Tensor):
            if x.device.type != "cpu":
                raise ValueError(f"{name} must be on the CPU, where the index is, not on {x.device}")
        elif not isinstance(x, np.ndarray):
            raise TypeError(f"{name} must be a torch tensor or a numpy array, not {type(x).__name__}")
        if str(x.dtype) not in ("uint8", "torch.uint8"):
            raise TypeError(f"{name} must be packed bits in uint8 (see pack_bits), not {x.dtype}")
        x, width = np.asarray(x), (self._bits + 7) // 8
        if x.ndim != 2 or x.shape[1] != width:
            raise ValueError(f"{name} must have shape [N, {width}] for {self._bits} bits, not {list(x.shape)}")
        if storage.has_padding(x, self._bits):
            raise ValueError(f"{name} must have zeros past the first {self._bits} bits of a row")
        return np.ascontiguousarray(x)


def continued(largest: int, count: int, before: int = 0, behind: int = 0) -> np.ndarray:
    """int64 [count], the ids that follow the largest so far; there must be room for others before and behind them."""
    if largest > _LARGEST_ID - before - count - behind:
        raise ValueError(f"ids must be given: they cannot continue from {largest}")
    return largest + before + np.arange(1, count + 1)  # up to 2**63 itself, arange would be of floats


def _ids(name: str, ids: Any) -> np.ndarray:
    array = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, not {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have one axis, not shape {list(array.shape)}")
    if array.dtype == np.uint64 and array.max() > _LARGEST_ID:
        raise ValueError(f"{name} must be less than 2**63, as {array.max()} is not")
    return array.astype(np.int64)


def _like(given: Array, result: np.ndarray) -> Array:
    return result if isinstance(given, np.ndarray) else torch.from_numpy(result)
