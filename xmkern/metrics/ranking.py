"""Rankings: mean average precision for hashing and multi-positive recall.

Both take torch tensors or numpy arrays and return a float. Axes: ``Q`` queries, ``N`` gallery items, ``K`` results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

__all__ = ["mean_average_precision", "recall_at_k"]

Ties = Literal["index", "expected"]
_TIES: tuple[Ties, ...] = ("index", "expected")


def _array(value: Any, name: str, axes: str) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # numpy has no bfloat16; float32 holds its numbers as they are.
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    array = np.asarray(value)
    if array.ndim != len(axes.split(", ")):
        raise ValueError(f"{name} must have the axes [{axes}], got shape {tuple(array.shape)}")
    return array


def mean_average_precision(distances: Any, relevance: Any, *, ties: Ties = "index") -> float:
    r"""Mean average precision of a gallery ranked by distance.

    For one query with :math:`R` relevant items, :math:`\mathrm{AP} = \frac1R \sum_{i\ \mathrm{relevant}}
    \frac{\mathrm{relevant\ items\ ranked\ up\ to}\ i}{\mathrm{rank}(i)}` (Manning, Raghavan, Schütze, Introduction
    to Information Retrieval, 2008, section 8.4), over the whole gallery. Queries with no relevant item have no AP and
    are left out of the mean.

    Hamming distances are small integers, so most ranks are ties, and an order within ties that follows the gallery's
    own order can flatter or punish a code by chance. ``ties="expected"`` gives the exact mean of AP over all orders
    within ties (McSherry and Najork, Computing Information Retrieval Performance Measures Efficiently in the Presence
    of Tied Scores, ECIR 2008, section 3.2): in a tie of :math:`n` items of which :math:`r` are relevant, that begins
    after :math:`n_0` items of which :math:`r_0` are relevant, each place :math:`j = 1..n` holds a relevant item with
    probability :math:`r/n` and adds :math:`\frac rn \cdot \frac{r_0 + 1 + (j-1)\frac{r-1}{n-1}}{n_0 + j}`.

    Args:
        distances: ``[Q, N]``, any numbers, the smaller the better. Pass minus the similarity for similarities.
        relevance: ``[Q, N]``, booleans (or 0 and 1).
        ties: ``"index"`` orders ties by the smaller index; ``"expected"`` averages over all orders within ties.

    Returns:
        A float in [0, 1]; NaN when no query has a relevant item.

    Raises:
        ValueError: an argument's shape or value does not fit; the message names it.
    """
    d = _array(distances, "distances", "Q, N")
    relevant = _array(relevance, "relevance", "Q, N")
    if relevant.shape != d.shape:
        raise ValueError(f"relevance must have the shape of distances, {d.shape}; got {relevant.shape}")
    if relevant.dtype != bool and not np.isin(relevant, (0, 1)).all():
        raise ValueError("relevance must hold booleans, or the numbers 0 and 1")
    if d.dtype.kind == "f" and np.isnan(d).any():
        raise ValueError("distances must not hold NaN")
    if ties not in _TIES:
        raise ValueError(f"ties must be one of {_TIES}, got {ties!r}")
    found = relevant.astype(bool).any(axis=1)
    if not found.any():
        return float("nan")
    d, relevant = d[found], relevant[found].astype(bool)

    order = np.argsort(d, axis=1, kind="stable")
    ranked = np.take_along_axis(relevant, order, axis=1).astype(np.float64)
    total = ranked.sum(axis=1, keepdims=True)
    rank = np.arange(1, d.shape[1] + 1, dtype=np.float64)
    if ties == "index":
        gain = ranked * np.cumsum(ranked, axis=1) / rank
    else:
        gain = _expected_gain(np.take_along_axis(d, order, axis=1), ranked, rank)
    return float((gain / total).sum(axis=1).mean())


def _expected_gain(d: np.ndarray, ranked: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Expected precision, times the probability of being relevant, at each place: float64 ``[Q, N]``."""
    columns = np.arange(d.shape[1])
    changes = d[:, 1:] != d[:, :-1]
    edge = np.ones((d.shape[0], 1), bool)
    # For every place, where its tie begins and where the next one does.
    first = np.maximum.accumulate(np.where(np.concatenate([edge, changes], 1), columns, 0), axis=1)
    last = np.where(np.concatenate([changes, edge], 1), columns, d.shape[1])
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    up_to = np.concatenate([np.zeros((d.shape[0], 1)), np.cumsum(ranked, axis=1)], axis=1)
    before = np.take_along_axis(up_to, first, axis=1)
    inside = np.take_along_axis(up_to, last + 1, axis=1) - before
    size = last - first + 1
    # Given that this place is relevant, the j-1 places before it in the tie share the r-1 others evenly.
    others = (columns - first) * (inside - 1) / np.maximum(size - 1, 1)
    return inside / size * (before + 1 + others) / rank


def recall_at_k(indices: Any, query_ids: Any, gallery_ids: Any, *, ks: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """Share of queries with at least one right answer among their first ``k`` results.

    An answer is right when its id is the query's id, so several gallery items can be right for one query (pictures
    that are the same, captions of one picture): the multi-positive "recall@K" of cross-modal retrieval (Karpathy and
    Fei-Fei, Deep Visual-Semantic Alignments, CVPR 2015, section 4.2). It is a hit rate: finding one is enough.

    Args:
        indices: ``[Q, K]`` integers into the gallery, best first; -1 stands for "no result".
        query_ids: ``[Q]`` ids.
        gallery_ids: ``[N]`` ids.
        ks: the depths, each 1 to ``K``.

    Returns:
        Each ``k`` with its share in [0, 1]; NaN when there are no queries.

    Raises:
        ValueError: an argument's shape or value does not fit; the message names it.
    """
    results = _array(indices, "indices", "Q, K")
    queries, gallery = _array(query_ids, "query_ids", "Q"), _array(gallery_ids, "gallery_ids", "N")
    if results.dtype.kind not in "iu":
        raise ValueError(f"indices must be integers, got {results.dtype}")
    if len(queries) != len(results):
        raise ValueError(f"query_ids must have one id for each of the {len(results)} queries, got {len(queries)}")
    if results.size and (results.min() < -1 or results.max() >= len(gallery)):
        raise ValueError(f"indices must be -1 or point into the gallery of {len(gallery)} items")
    wrong = [k for k in ks if not 1 <= k <= results.shape[1]]
    if wrong:
        raise ValueError(f"ks must be 1 to {results.shape[1]}, the number of results a query has; got {wrong}")
    if not len(queries):
        return {k: float("nan") for k in ks}
    if not len(gallery):
        return dict.fromkeys(ks, 0.0)
    right = (gallery[results] == queries[:, None]) & (results >= 0)
    return {k: float(right[:, :k].any(axis=1).mean()) for k in ks}
