"""The operator's flat arguments as problems: queries, and the sources of keys and values that they attend to."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

TILE = 64  # of keys: sources begin with one


class Source(NamedTuple):
    """Keys [B, Hk, S, D] and values [B, Hk, S, Dv], and what attention takes with them: see its operator."""

    key: Tensor
    value: Tensor
    mask: Sequence[int] = ()
    mask_tensors: Sequence[Tensor] = ()
    bias: Tensor | None = None
    buckets: Tensor | None = None


class Problem(NamedTuple):
    query: Tensor
    sources: list[Any]  # of Source
    scale: float
    seed: Tensor | None  # int64 [1]

    def places(self) -> list[int]:
        """Of the first key of each source, where each begins with a tile behind the one before: what keys dropout."""
        places, end = [], 0
        for source in self.sources:
            places.append(-(-end // TILE) * TILE)
            if source.key.shape[2]:
                end = places[-1] + source.key.shape[2]
        return places


def problems(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    counts: Sequence[int],
    masks: Sequence[int],
    mask_tensors: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    buckets: Sequence[Tensor | None],
    scales: Sequence[float],
    dropout_p: float,
    seeds: Tensor | None,
) -> list[Problem]:
    """counts: of sources, for each query; masks: for each source the length of its program, the number of its tensors,
    and the program."""
    found: list[Problem] = []
    at = mask_at = tensor_at = 0
    for i, query in enumerate(queries):
        sources = []
        for _ in range(counts[i]):
            length, tensors = masks[mask_at], masks[mask_at + 1]
            program = masks[mask_at + 2 : mask_at + 2 + length]
            own = mask_tensors[tensor_at : tensor_at + tensors]
            sources.append(Source(keys[at], values[at], program, own, biases[at], buckets[at]))
            at, mask_at, tensor_at = at + 1, mask_at + 2 + length, tensor_at + tensors
        found.append(Problem(query, sources, scales[i], None if seeds is None else seeds[i : i + 1]))
    return found
