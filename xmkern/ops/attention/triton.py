"""Launches the Triton kernels: makes the memory, lowers the arguments. Triton is imported by the first call."""

import math
from typing import Any

import torch
from torch import Tensor

from xmkern.ops import gpu
from xmkern.ops.attention import triton_arguments as arguments
from xmkern.ops.attention.layout import empty_like_query
from xmkern.ops.attention.triton_arguments import FAR, LoweredMask, Tiles, dense, operand
from xmkern.ops.gpu import cdiv, power_of_two

MAX_DEPTH = 256
_MAX_PACKED = 64  # queries of all heads that share a key head, up to which one program takes them all
_MAX_SPLITS = 64


def refuses(*args: Any) -> str | None:
    """Why these arguments of ``attention`` or ``attention_backward`` cannot be served, or None."""
    query, key, value = args[2:5] if len(args) > 3 and isinstance(args[3], Tensor) else args[:3]
    reason = gpu.refuses(query)
    if reason is not None:
        return reason
    depth = max(query.shape[3], value.shape[3])
    if depth > MAX_DEPTH:
        return f"the kernels take heads of up to {MAX_DEPTH} numbers, not {depth}"
    if query.dtype == torch.float32 and depth > 128 and gpu.chip_of(query.device).shared < 160 << 10:
        return f"the GPU has too little shared memory for float32 heads of {depth} numbers"
    if max(query.shape[2], key.shape[2]) >= FAR:
        return f"there are {FAR} or more queries or keys"
    return None


class _Call:
    """What the kernels of one call share."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: list[int],
        mask_tensors: list[Tensor],
        bias: Tensor | None,
        buckets: Tensor | None,
        scale: float,
        dropout_p: float,
        seed: Tensor | None,
        place: int = 0,
    ) -> None:
        """place: of the first key, a multiple of 64, where keys are those of one of several sources."""
        self.query, self.key, self.value = dense(query), dense(key), dense(value)
        self.batches, self.heads, self.queries, self.depth = query.shape
        self.key_heads, self.keys, self.value_depth = value.shape[1:]
        self.sizes = (self.heads, self.key_heads, self.queries, self.keys, self.batches)
        self.mask: LoweredMask = arguments.lower_mask(mask, mask_tensors)
        self.bias_form, self.bias = arguments.lower_bias(bias, buckets, self.queries)
        self.dropout = arguments.lower_dropout(dropout_p, seed, place)
        self.scale = scale
        self.chip = gpu.chip_of(query.device)
        self.pads = tuple(max(16, power_of_two(d)) for d in (self.depth, self.value_depth))

    def tiles(self, kernel: str, crowded: bool = False) -> Tiles:
        return arguments.tiles_of(kernel, self.chip, max(self.pads), self.query.element_size(), crowded)

    def shape(self, unit: int) -> tuple[int, ...]:
        return (self.depth, self.value_depth, *self.pads, unit)

    def constants(self, tiles: Tiles, unit: int, **limits: int) -> dict[str, Any]:
        """What every kernel of attention is compiled for."""
        return {
            "SHAPE": self.shape(unit),
            "MASK": self.mask.program,
            "BIAS": self.bias_form,
            "DROPOUT": bool(self.dropout),
            "PRECISION": arguments.precision(self.query.dtype, max(self.pads), **limits),
            "ROWS": tiles.rows,
            "KEYS": tiles.keys,
            "num_warps": tiles.warps,
            "num_stages": tiles.stages,
        }

    def lists(self, tiles: Tiles, of_keys: bool) -> tuple[Any, ...]:
        """The tiles that each tile has to visit, where the ends of an interval do not tell; else ()."""
        fixed, moving = cdiv(self.queries, tiles.rows), cdiv(self.keys, tiles.keys)
        if of_keys:
            fixed, moving = moving, fixed
        if not self.mask.needs_lists or moving <= 2:
            return ()
        batches = self.mask.list_batches(self.batches)
        device = self.query.device
        lists = torch.empty(batches, fixed, 2, moving, dtype=torch.int32, device=device)
        counts = torch.empty(batches, fixed, 2, dtype=torch.int32, device=device)
        gpu.launch(
            _masks().tile_list_kernel, batches * fixed, lists, counts, self.sizes, self.mask.numbers, self.mask.tensors,
            MASK=self.mask.program, QUERY_TILE=tiles.rows, KEY_TILE=tiles.keys, OF_KEYS=of_keys, CHUNK=32, num_warps=4,
        )  # fmt: skip
        return lists, counts, fixed if batches > 1 else 0


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: list[int],
    mask_tensors: list[Tensor],
    bias: Tensor | None,
    buckets: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    call = _Call(query, key, value, mask, mask_tensors, bias, buckets, scale, dropout_p, seed)
    out = empty_like_query(query, call.value_depth)
    lse = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    if lse.numel() > 0:
        _attend(call, out, lse)
    return out, lse


def attention_of_sources(
    query: Tensor, sources: list[Any], places: list[int], scale: float, dropout_p: float, seed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention over the keys of all sources: a launch for each, merged. A source: ``attention``'s arguments from key
    to buckets."""
    if len(sources) == 1:
        only: Any = (*sources[0], scale, dropout_p, seed)
        return attention(query, *only)
    out = empty_like_query(query, sources[0][1].shape[3])
    parts = torch.empty(len(sources), *out.shape, dtype=torch.float32, device=query.device)
    part_lses = torch.empty(parts.shape[:4], dtype=torch.float32, device=query.device)
    lse = torch.empty_like(part_lses[0])
    if lse.numel() == 0:
        return out, lse
    for source, place, part, part_lse in zip(sources, places, parts, part_lses, strict=True):
        given: Any = (*source, scale, dropout_p, seed, place)
        call = _Call(query, *given)
        _attend(call, part, part_lse)
    _merge(call, parts, part_lses, out, lse, arguments.unit_of(out))
    return out, lse


def _attend(call: _Call, out: Tensor, lse: Tensor) -> None:
    query = call.query
    if call.scale <= 0:  # the query takes the sign; times zero, a hidden -inf would be NaN
        call.query, call.scale = -call.query, max(-call.scale, 1e-37)
    group = call.heads // call.key_heads
    crowded = call.bias_form > 2 or bool(call.dropout) or call.mask.needs_lists
    tiles = call.tiles("forward", crowded)
    packed = group > 1 and call.queries * group <= min(tiles.rows, _MAX_PACKED)
    rows = call.queries * group if packed else call.queries
    tiles = tiles.fit(rows, call.keys)
    programs = call.batches * (call.key_heads if packed else call.heads * cdiv(rows, tiles.rows))
    splits = _splits(programs, cdiv(call.keys, tiles.keys), call.chip.processors) if rows <= tiles.rows else 1
    with gpu.on(query):
        lists = call.lists(tiles, of_keys=False) if splits == 1 and not packed else ()
        unit = arguments.unit_of(call.query, call.key, call.value, out)
        target, target_lse = operand(out, unit), lse
        parts = out
        if splits > 1:
            unit = unit if call.value_depth % 8 == 0 else 1
            parts = torch.empty(splits, *out.shape, dtype=torch.float32, device=query.device)
            target, target_lse = (parts, 0, 0, call.value_depth // unit), lse.new_empty(splits, *lse.shape)
        gpu.launch(
            _forward().forward_kernel, programs * splits,
            *(operand(x, unit) for x in (call.query, call.key, call.value)), target, target_lse, splits,
            call.sizes, call.mask.numbers, call.mask.tensors, lists, call.bias, call.dropout, call.scale,
            LISTED=bool(lists), PACKED=packed, SPLIT=splits > 1, **call.constants(tiles, unit),
        )  # fmt: skip
        if splits > 1:
            _merge(call, parts, target_lse, out, lse, unit)


def _merge(call: _Call, parts: Tensor, part_lses: Tensor, out: Tensor, lse: Tensor, unit: int) -> None:
    with gpu.on(out):
        gpu.launch(
            _forward().merge_kernel, lse.numel(), parts, part_lses, operand(out, unit), lse, call.sizes, len(parts),
            SHAPE=call.shape(unit), SPLITS=power_of_two(len(parts)), num_warps=4,
        )  # fmt: skip


def attention_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    mask: list[int],
    mask_tensors: list[Tensor],
    bias: Tensor | None,
    buckets: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    bias_grad: bool,
    place: int = 0,
    grad_query: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``out`` and ``lse`` are those of all sources. grad_query: where that gradient goes, of any dtype."""
    call = _Call(query, key, value, mask, mask_tensors, bias, buckets, scale, dropout_p, seed, place)
    grad_query = empty_like_query(query, call.depth) if grad_query is None else grad_query
    grad_key, grad_value = empty_like_query(key, call.depth), empty_like_query(value, call.value_depth)
    grad_bias = lse.new_empty(bias.shape if bias is not None and bias_grad else 0)
    if lse.numel() == 0 or call.keys == 0:
        return grad_query.zero_(), grad_key.zero_(), grad_value.zero_(), grad_bias.zero_()
    from xmkern.ops.attention import triton_backward as kernels

    out, grad_out, lse = dense(out), dense(grad_out), lse.contiguous()
    delta = torch.empty_like(lse)
    by_query = call.tiles("grad_query").fit(call.queries, call.keys)
    by_key = call.tiles("grad_key_value").fit(call.queries, call.keys, of_keys=True)
    unit = arguments.unit_of(call.query, call.key, call.value, out, grad_out, grad_query, grad_key, grad_value)
    with gpu.on(query):
        given = (*(operand(x, unit) for x in (call.query, call.key, call.value, grad_out)), (lse, delta))
        lists = call.lists(by_query, of_keys=False)
        gpu.launch(
            kernels.grad_query_kernel, call.batches * call.heads * cdiv(call.queries, by_query.rows),
            *given, operand(out, unit), () if grad_lse is None else (grad_lse, *grad_lse.stride()),
            operand(grad_query, unit), call.sizes, call.mask.numbers, call.mask.tensors, lists,
            call.bias, call.dropout, call.scale, LISTED=bool(lists), **call.constants(by_query, unit),
        )  # fmt: skip
        lists = call.lists(by_key, of_keys=True)
        gpu.launch(
            kernels.grad_key_value_kernel, call.batches * call.key_heads * cdiv(call.keys, by_key.keys),
            *given, operand(grad_key, unit), operand(grad_value, unit),
            call.sizes, call.mask.numbers, call.mask.tensors, lists,
            call.bias, call.dropout, call.scale, LISTED=bool(lists), **call.constants(by_key, unit),
        )  # fmt: skip
        if bias is not None and bias_grad:
            _grad_bias(call, given, grad_bias, unit, toeplitz=grad_bias.dim() == 3 and buckets is None)
    return grad_query, grad_key, grad_value, grad_bias


def _grad_bias(call: _Call, given: tuple[Any, ...], grad: Tensor, unit: int, toeplitz: bool) -> None:
    from xmkern.ops.attention import triton_bias as kernels

    tiles = call.tiles("grad_bias")
    row_tiles, column_tiles = cdiv(call.queries, tiles.rows), cdiv(call.keys, tiles.keys)
    bins, bin_tile = grad.shape[-1], min(1024, max(16, power_of_two(grad.shape[-1])))
    shape: tuple[int, ...]
    if call.bias_form == 4:
        form, places, shape = kernels.SUM_BUCKETS, row_tiles * cdiv(bins, bin_tile), (row_tiles, bins)
    elif toeplitz:
        places = row_tiles + column_tiles - 1
        form, shape = kernels.KEEP_DIAGONAL, (places, tiles.rows, tiles.keys)
    elif call.bias_form == 3:
        form, places, shape = kernels.KEEP_TILE, row_tiles * column_tiles, (call.queries, call.keys)
    elif call.bias_form == 1:
        form, places, shape = kernels.SUM_QUERIES, column_tiles, (call.keys,)
    else:
        form, places, shape = kernels.SUM_KEYS, row_tiles, (call.queries,)
    bias_batches, bias_heads = grad.shape[:2]
    among_heads = call.heads if bias_heads == 1 else 1
    members = among_heads * (call.batches if bias_batches == 1 else 1)
    matrices = bias_batches * bias_heads
    shares = max(1, min(members, cdiv(2 * call.chip.processors, matrices * places)))
    in_place = shares == 1 and grad.numel() == matrices * math.prod(shape)
    found = grad.view(1, matrices, *shape) if in_place else grad.new_empty(shares, matrices, *shape)
    gpu.launch(
        kernels.grad_bias_kernel, shares * matrices * places, *given, found,
        (shares, bias_batches, bias_heads, among_heads, members, bins),
        call.sizes, call.mask.numbers, call.mask.tensors, call.bias, call.dropout, call.scale,
        FORM=form.value, BINS=bin_tile, **call.constants(tiles, unit, largest=0),
    )  # fmt: skip
    if in_place:
        return
    if toeplitz:
        folded = grad.new_empty(shares, matrices, bins)
        gpu.launch(
            kernels.fold_diagonals_kernel, shares * matrices * cdiv(bins, 128), found, folded, call.sizes,
            row_tiles, places, T=tiles.rows, CHUNK=128, num_warps=4,
        )  # fmt: skip
        found = folded
    elif form is kernels.SUM_BUCKETS or (form is kernels.SUM_KEYS and grad.shape[2] == 1):
        found = found.sum(2)
    grad.copy_(found.sum(0).view(grad.shape))


def _splits(programs: int, tiles: int, processors: int) -> int:
    """Among how many programs the keys of one row of tiles are cut: enough to fill the GPU, four tiles each or more."""
    if 2 * programs > processors:
        return 1
    return max(1, min(cdiv(2 * processors, programs), tiles // 4, _MAX_SPLITS))


def _masks() -> Any:
    from xmkern.ops.attention import triton_masks

    return triton_masks


def _forward() -> Any:
    from xmkern.ops.attention import triton_forward

    return triton_forward
