"""Biases of attention that are looked up by where a query and a key stand, and learned."""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

__all__ = ["RelativeBias", "swin_buckets", "t5_buckets"]


class RelativeBias:
    """A bias [H, L, S] that is looked up in a small table, which gets its gradient without the matrix being made.

    Args:
        table: [N, H] (or [N, 1], the same for all heads), as T5's embedding and Swin's parameter are: N learned values
            a head. float32 inside whatever its dtype.
        buckets: integers that say which row of the table a score takes:
            [L, S], one for each query i and key j; or
            [L + S - 1], where it depends on the distance alone: element j - i + L - 1 (a Toeplitz matrix);
            None: as ``arange(L + S - 1)``, the table holds a value for each distance.
    """

    __slots__ = ("buckets", "table")

    def __init__(self, table: Tensor, buckets: Tensor | None = None) -> None:
        if not isinstance(table, Tensor):
            raise TypeError(f"table must be a tensor, not {type(table).__name__}")
        if table.dim() != 2:
            raise ValueError(f"table must have two axes, [N, H], not shape {list(table.shape)}")
        if not table.is_floating_point():
            raise TypeError(f"table must hold floating-point numbers, not {table.dtype}")
        if buckets is not None:
            if not isinstance(buckets, Tensor):
                raise TypeError(f"buckets must be a tensor, not {type(buckets).__name__}")
            if buckets.dtype not in (torch.int32, torch.int64):
                raise TypeError(f"buckets must be int32 or int64, not {buckets.dtype}")
            if buckets.dim() not in (1, 2):
                raise ValueError(f"buckets must have the axes [L, S] or [L + S - 1], not shape {list(buckets.shape)}")
            if buckets.device != table.device:
                raise ValueError(f"buckets must be on {table.device} as table is, not on {buckets.device}")
        self.table = table
        self.buckets = buckets

    def __repr__(self) -> str:
        buckets = "" if self.buckets is None else f", {list(self.buckets.shape)}"
        return f"RelativeBias({list(self.table.shape)}{buckets})"

    def check(self, H: int, L: int, S: int) -> None:
        """Raises ValueError unless the bias fits H heads, L queries and S keys."""
        rows, heads = self.table.shape
        distances = max(L + S - 1, 0)
        if heads not in (1, H):
            raise ValueError(f"bias: table must have 1 or H = {H} columns, not {heads}")
        if self.buckets is None:
            if rows != distances:
                raise ValueError(f"bias: table must have L + S - 1 = {distances} rows without buckets, not {rows}")
        elif self.buckets.shape not in ((L, S), (distances,)):
            raise ValueError(
                f"bias: buckets must have shape [L, S] = {[L, S]} or [L + S - 1] = [{distances}], "
                f"not {list(self.buckets.shape)}"
            )

    def compact(self) -> tuple[Tensor, Tensor | None]:
        """The operator's form: values [1, H|1, N] and buckets int32 [L, S], or values [1, H|1, L + S - 1] and None."""
        table, buckets = self.table, self.buckets
        if buckets is not None and buckets.dim() == 1:
            try:
                table, buckets = table.index_select(0, buckets), None  # L + S - 1 rows: nothing beside the matrix
            except IndexError:
                raise ValueError(f"bias: buckets must be 0 to {len(table) - 1}, rows of the table") from None
        if buckets is not None and buckets.dtype == torch.int64:
            buckets = buckets.clamp(-1, 2**31 - 1)  # which stay what no table has
        return table.t()[None], None if buckets is None else buckets.int()

    def to_dense(self, L: int, S: int) -> Tensor:
        """[1, H|1, L, S] with a gradient to the table: for looking at, or for adding to another bias."""
        self.check(self.table.shape[1], L, S)
        buckets = self.buckets
        if buckets is None or buckets.dim() == 1:
            i, j = (torch.arange(n, device=self.table.device) for n in (L, S))
            places = j - i[:, None] + L - 1
            buckets = places if buckets is None else buckets[places]
        return self.table[buckets].movedim(-1, 0)[None]


def _flatten(bias: RelativeBias) -> tuple[list[tuple[pytree.KeyEntry, Tensor]], None]:
    parts: list[tuple[pytree.KeyEntry, Tensor]] = [(pytree.GetAttrKey("table"), bias.table)]
    if bias.buckets is not None:
        parts.append((pytree.GetAttrKey("buckets"), bias.buckets))
    return parts, None


def _unflatten(parts: Iterable[Any], context: None) -> RelativeBias:
    bias = object.__new__(RelativeBias)  # of what a transform put in the tensors' places, unchecked
    bias.table, bias.buckets = (*parts, None)[:2]
    return bias


# So that transforms of torch, as grad, vmap and export, see the tensors.
pytree.register_pytree_node(
    RelativeBias,
    lambda bias: ([tensor for _, tensor in _flatten(bias)[0]], None),
    _unflatten,
    flatten_with_keys_fn=_flatten,
)


def t5_buckets(
    L: int,
    S: int,
    num_buckets: int = 32,
    max_distance: int = 128,
    bidirectional: bool = True,
    *,
    offset: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """T5's buckets of distances (Raffel et al., 2020): near ones each its own, far ones in logarithmic steps.

    Args:
        L, S: how many queries and keys.
        num_buckets: rows of the table; where ``bidirectional``, one half for keys before and one for those after.
        max_distance: from here on, all share the last bucket.
        offset: the place of the first query among the keys; ``S - L`` where the queries are the last, as in decoding.

    Returns:
        int32 [L + S - 1] for :class:`RelativeBias`: element j - i + L - 1 is the bucket of key j for query i.
    """
    distance = torch.arange(max(L + S - 1, 0), device=device) - (L - 1 + offset)  # key minus query
    side = torch.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        side = (distance > 0) * num_buckets
        distance = distance.abs()
    else:
        distance = -distance.clamp(max=0)
    exact = num_buckets // 2
    if not 1 <= exact < max_distance:
        raise ValueError(f"max_distance must exceed the {exact} buckets of exact distances, not {max_distance}")
    # In float32 and in this order, as in the original: elsewise rounding moves a few distances to a neighbour.
    steps = torch.log(distance.float() / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    far = (exact + steps.clamp(min=0).long()).clamp(max=num_buckets - 1)
    return (side + torch.where(distance < exact, distance, far)).int()


def swin_buckets(height: int, width: int | None = None, *, device: torch.device | str | None = None) -> Tensor:
    """Swin's places of relative positions in a window (Liu et al., 2021): its ``relative_position_index``.

    Args:
        height, width: of the window in tokens, in rows; square by default.

    Returns:
        int32 [L, S] with L = S = height * width, for a table of (2 height - 1) (2 width - 1) rows.
    """
    width = height if width is None else width
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be positive, not {height} and {width}")
    places = torch.arange(height * width, device=device)
    rows, columns = places // width, places % width
    down = rows[:, None] - rows + height - 1  # query minus key
    right = columns[:, None] - columns + width - 1
    return (down * (2 * width - 1) + right).int()
