"""FAISS's binary indexes, on our kernels: change the import and keep the code. FAISS itself is not needed.

Results are numpy arrays of FAISS's types and conventions. Two things differ, both where FAISS promises nothing: equal
distances are ordered by position, and what ``range_search`` finds is ordered by distance. Wrong arguments raise
ValueError or TypeError; what FAISS does not implement raises NotImplementedError, a RuntimeError as FAISS's own.
"""

import copy
import operator
import os
import struct
from io import BufferedReader
from typing import Any

import numpy as np

from xmkern import functional
from xmkern._functional.hamming import MAX_BITS
from xmkern.hamming.snapshot import append

__all__ = ["IndexBinaryFlat", "IndexBinaryIDMap", "read_index_binary"]

_NO_DISTANCE = 2**31 - 1


class IndexBinaryFlat:
    """Exact search among codes of ``d`` bits, a multiple of 8, known by their positions.

    Codes are uint8 [n, d / 8].
    """

    is_trained = True

    def __init__(self, d: int) -> None:
        self.d = operator.index(d)
        if self.d % 8 or not 8 <= self.d <= MAX_BITS:
            raise ValueError(f"d must be a multiple of 8 from 8 to {MAX_BITS}, not {d}")
        self._codes = np.empty((0, self.code_size), np.uint8)

    def __copy__(self) -> "IndexBinaryFlat":
        return copy.deepcopy(self)  # what grows in place cannot be shared

    @property
    def code_size(self) -> int:
        """Bytes a code."""
        return self.d // 8

    @property
    def ntotal(self) -> int:
        return len(self._codes)

    def train(self, x: np.ndarray) -> None:
        """Nothing to learn."""
        self._checked(x)

    def add(self, x: np.ndarray) -> None:
        self._codes = append(self._codes, self._checked(x))

    def add_with_ids(self, x: np.ndarray, ids: np.ndarray) -> None:
        raise NotImplementedError("IndexBinaryFlat keeps no ids; wrap it in an IndexBinaryIDMap")

    def search(self, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """x [Q, d / 8] -> distances int32 [Q, k], positions int64 [Q, k]; 2147483647 and -1 where codes are lacking."""
        k = operator.index(k)
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        distances, places = functional.hamming_topk(self._checked(x), self._codes, k)
        distances[places < 0] = _NO_DISTANCE
        return distances, places

    def range_search(self, x: np.ndarray, thresh: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All codes nearer than ``thresh``, which is itself outside.

        Returns:
            lims uint64 [Q + 1], distances float32 [R], positions int64 [R]: query q's lie at lims[q] : lims[q + 1].
        """
        radius = operator.index(thresh) - 1
        lims, distances, places = functional.hamming_range(self._checked(x), self._codes, radius)
        return lims.astype(np.uint64), distances.astype(np.float32), places

    def remove_ids(self, x: np.ndarray) -> int:
        """Removes the codes at these positions and returns how many; those behind move up."""
        return self._keep(~np.isin(np.arange(self.ntotal), _ids("x", x)))

    def reconstruct(self, key: int) -> np.ndarray:
        """The code uint8 [d / 8] at a position."""
        if not 0 <= operator.index(key) < self.ntotal:
            raise ValueError(f"key must be 0 to {self.ntotal - 1}, not {key}")
        return self._codes[key].copy()

    def reset(self) -> None:
        """Removes all codes."""
        self._codes = self._codes[:0].copy()

    def _keep(self, kept: np.ndarray) -> int:
        before = self.ntotal
        self._codes = self._codes[kept]
        return before - self.ntotal

    def _checked(self, x: Any) -> np.ndarray:
        x = np.asarray(x)
        if x.dtype != np.uint8:
            raise TypeError(f"x must be uint8, not {x.dtype}")
        if x.ndim != 2 or x.shape[1] != self.code_size:
            raise ValueError(f"x must have shape [n, {self.code_size}] for d = {self.d}, not {list(x.shape)}")
        return np.ascontiguousarray(x)


class IndexBinaryIDMap:
    """Gives the codes of an empty :class:`IndexBinaryFlat` ids, int64 and not necessarily unique."""

    is_trained = True

    def __init__(self, index: IndexBinaryFlat) -> None:
        if not isinstance(index, IndexBinaryFlat):
            raise TypeError(f"index must be an IndexBinaryFlat, not {type(index).__name__}")
        if index.ntotal:
            raise ValueError(f"index must be empty, not hold {index.ntotal} codes")
        self.index = index
        self._ids = np.empty(0, np.int64)

    def __copy__(self) -> "IndexBinaryIDMap":
        return copy.deepcopy(self)  # what grows in place cannot be shared

    @property
    def d(self) -> int:
        return self.index.d

    @property
    def code_size(self) -> int:
        return self.index.code_size

    @property
    def ntotal(self) -> int:
        return self.index.ntotal

    @property
    def id_map(self) -> np.ndarray:
        """int64 [ntotal], a copy."""
        return self._ids.copy()

    def train(self, x: np.ndarray) -> None:
        """Nothing to learn."""
        self.index.train(x)

    def add(self, x: np.ndarray) -> None:
        raise NotImplementedError("IndexBinaryIDMap needs ids: call add_with_ids")

    def add_with_ids(self, x: np.ndarray, ids: np.ndarray) -> None:
        codes, ids = self.index._checked(x), _ids("ids", ids)
        if len(ids) != len(codes):
            raise ValueError(f"ids must be as many as the codes ({len(codes)}), not {len(ids)}")
        self.index.add(codes)
        self._ids = append(self._ids, ids)

    def search(self, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`IndexBinaryFlat.search`, with ids for positions."""
        distances, places = self.index.search(x, k)
        found = places >= 0
        places[found] = self._ids[places[found]]
        return distances, places

    def range_search(self, x: np.ndarray, thresh: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As :meth:`IndexBinaryFlat.range_search`, with ids for positions."""
        lims, distances, places = self.index.range_search(x, thresh)
        return lims, distances, self._ids[places]

    def remove_ids(self, x: np.ndarray) -> int:
        """Removes all codes with one of these ids and returns how many."""
        kept = ~np.isin(self._ids, _ids("x", x))
        self._ids = self._ids[kept]
        return self.index._keep(kept)

    def reconstruct(self, key: int) -> np.ndarray:
        """The code uint8 [d / 8] that was last added with this id (in FAISS, IndexBinaryIDMap2 does this)."""
        places = np.flatnonzero(self._ids == operator.index(key))
        if not len(places):
            raise ValueError(f"key must be an id of the index, as {key} is not")
        return self.index.reconstruct(int(places[-1]))

    def reset(self) -> None:
        """Removes all codes."""
        self.index.reset()
        self._ids = self._ids[:0].copy()


def _ids(name: str, ids: Any) -> np.ndarray:
    array = np.asarray(ids)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, not {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have one axis, not shape {list(array.shape)}")
    return array.astype(np.int64)


# ---- files of faiss.write_index_binary ---------------------------------------------------------------------------
# An index is a fourcc, a header and its parts, little endian; an array is its length (u64) and its elements.
#   IBxF: header, codes.   IBMp and IBM2: header, the index inside, ids.
_HEADER = struct.Struct("<iiq?i")  # d, code_size, ntotal, is_trained, metric_type


def read_index_binary(path: str | os.PathLike[str]) -> IndexBinaryFlat | IndexBinaryIDMap:
    """Reads a Flat index, or one inside an IDMap or IDMap2, that ``faiss.write_index_binary`` wrote.

    Raises:
        ValueError: the file holds another kind of index, or its lengths do not agree.
    """
    with open(path, "rb") as file:
        reader = _Reader(file, path)
        index = _read_index(reader)
        if reader.left:
            raise reader.bad(f"{reader.left} bytes follow the index")
    return index


class _Reader:
    """Reads parts of a file, none of them longer than what is left of it."""

    def __init__(self, file: BufferedReader, path: str | os.PathLike[str]) -> None:
        self._file, self._path = file, path
        self.left = os.fstat(file.fileno()).st_size

    def bytes(self, count: int) -> bytes:
        data = self._file.read(count) if count <= self.left else b""
        if len(data) != count:
            raise self.bad(f"it ends {count - self.left} bytes too early")
        self.left -= count
        return data

    def array(self, count: int, dtype: str) -> np.ndarray:
        """An array that must have `count` elements."""
        (length,) = struct.unpack("<Q", self.bytes(8))
        if length != count:
            raise self.bad(f"an array has {length} elements instead of {count}")
        data = self.bytes(count * np.dtype(dtype).itemsize)
        return np.frombuffer(data, dtype).astype(np.dtype(dtype).newbyteorder("="))

    def bad(self, why: str) -> ValueError:
        return ValueError(f"path: {os.fspath(self._path)!r} is no readable FAISS binary index: {why}")


def _read_index(reader: _Reader, inside: bool = False) -> IndexBinaryFlat | IndexBinaryIDMap:
    kind = reader.bytes(4)
    if kind != b"IBxF" and (inside or kind not in (b"IBMp", b"IBM2")):
        raise reader.bad(f"its kind {kind!r} is not Flat (IBxF) or Flat in an IDMap (IBMp, IBM2)")
    d, code_size, total, _, _ = _HEADER.unpack(reader.bytes(_HEADER.size))
    if d % 8 or not 8 <= d <= MAX_BITS or code_size != d // 8 or total < 0:
        raise reader.bad(f"d = {d}, code_size = {code_size}, ntotal = {total}")
    if kind == b"IBxF":
        flat = IndexBinaryFlat(d)
        flat._codes = reader.array(total * code_size, "u1").reshape(total, code_size)
        return flat
    inner = _read_index(reader, inside=True)
    if inner.d != d or inner.ntotal != total:
        raise reader.bad(f"an IDMap of {total} codes holds an index of {inner.ntotal}")
    index = IndexBinaryIDMap(IndexBinaryFlat(d))
    index.add_with_ids(inner._codes, reader.array(total, "<i8"))  # type: ignore[union-attr]
    return index
