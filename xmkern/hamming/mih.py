"""Multi-index hashing: exact search that looks only at codes near the query in some substring.

Norouzi, Punjani, Fleet: *Fast search in Hamming space with multi-index hashing*, CVPR 2012.
"""

import numpy as np
import torch

from xmkern import native

# A query whose buckets would cost more than this many flat scans is given to the flat scan.
PATIENCE = 0.5


class Tables:
    """The hash tables of codes uint8 [N, W] of ``bits`` bits. Immutable.

    Searches take codes that begin with the indexed ones: the tables keep no copy of long codes, and what came later is
    scanned. Results are those of :func:`xmkern.functional.hamming_topk` and ``hamming_range``, bit for bit.
    """

    def __init__(self, codes: np.ndarray, bits: int) -> None:
        codes = np.ascontiguousarray(codes)
        self._native = native.module().hamming.Mih(
            codes.ctypes.data, len(codes), codes.shape[1], bits, torch.get_num_threads()
        )

    def __len__(self) -> int:
        return len(self._native)

    @property
    def nbytes(self) -> int:
        return self._native.memory()

    def topk(
        self, queries: np.ndarray, codes: np.ndarray, k: int, patience: float = PATIENCE
    ) -> tuple[np.ndarray, np.ndarray]:
        """-> distances int32 [Q, k], positions int64 [Q, k], by (distance, position), padded with -1 and -1."""
        queries, codes = np.ascontiguousarray(queries), np.ascontiguousarray(codes)
        distances = np.empty((len(queries), k), np.int32)
        positions = np.empty((len(queries), k), np.int64)
        self._native.topk(
            *_addresses(queries, codes),
            k,
            distances.ctypes.data,
            positions.ctypes.data,
            patience,
            torch.get_num_threads(),
        )
        return distances, positions

    def range(
        self, queries: np.ndarray, codes: np.ndarray, radius: int, patience: float = PATIENCE
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """-> lims int64 [Q + 1], distances int32, positions int64; query q's lie at lims[q] : lims[q + 1]."""
        queries, codes = np.ascontiguousarray(queries), np.ascontiguousarray(codes)
        radius = max(-1, min(radius, 8 * codes.shape[1]))
        return self._native.range(*_addresses(queries, codes), radius, patience, torch.get_num_threads())


def _addresses(queries: np.ndarray, codes: np.ndarray) -> tuple[int, int, int, int, int]:
    return queries.ctypes.data, len(queries), codes.ctypes.data, len(codes), codes.shape[1]
