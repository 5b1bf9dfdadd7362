"""Launches the Triton kernels of late interaction: picks the tiles, makes the memory. Triton is imported by the first
call. The kernels do one side; the other side is the same call with x and y in each other's place.
"""

from typing import Any

import torch
from torch import Tensor

from xmkern.ops import gpu, tuning
from xmkern.ops.gpu import cdiv, power_of_two
from xmkern.ops.late_interaction import reference
from xmkern.ops.late_interaction.reference import index_dtype

_FAR = 1 << 30  # samples, and tokens of one, are counted in 32 bits
_PROGRAMS = 512  # into which a call is cut where it has as many tiles
_MAX_SPANS = 16  # each has sums of its own of the gradient


def refuses(x: Tensor, y: Tensor, *args: Any) -> str | None:
    """Why these arguments of ``max_similarity`` cannot be served, or None."""
    if max(*x.shape[:2], *y.shape[:2]) >= _FAR:
        return f"there are {_FAR} or more samples or tokens"
    return gpu.refuses(x)


def max_similarity(
    x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None, mean: bool, both: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if x.numel() == 0 or y.numel() == 0:
        return reference.max_similarity(x, y, x_mask, y_mask, mean, both)

    def results(wanted: bool, tokens: int, others: int) -> tuple[Tensor, Tensor]:
        scores = x.new_empty((len(x), len(y)) if wanted else 0, dtype=torch.float32)
        return scores, x.new_empty((*scores.shape, tokens) if wanted else 0, dtype=index_dtype(others))

    x_scores, x_winners = results(True, x.shape[1], y.shape[1])
    y_scores, y_winners = results(both, y.shape[1], x.shape[1])
    with gpu.on(x):
        _best(x, y, x_mask, y_mask, x_scores, x_winners)
        if both:
            _best(y, x, y_mask, x_mask, y_scores.mT, y_winners.transpose(0, 1))
    if mean:
        x_scores /= _counts(x, x_mask)[:, None]
        if both:
            y_scores /= _counts(y, y_mask)
    return x_scores, y_scores, x_winners, y_winners


def max_similarity_backward(
    grad_x_scores: Tensor,
    grad_y_scores: Tensor | None,
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None,
    y_mask: Tensor | None,
    x_winners: Tensor,
    y_winners: Tensor,
    mean: bool,
    x_grad: bool,
    y_grad: bool,
) -> tuple[Tensor, Tensor]:
    if x.numel() == 0 or y.numel() == 0:
        return x.new_zeros(x.shape if x_grad else 0), y.new_zeros(y.shape if y_grad else 0)
    if mean:
        grad_x_scores = grad_x_scores / _counts(x, x_mask)[:, None]
        grad_y_scores = None if grad_y_scores is None else grad_y_scores / _counts(y, y_mask)
    with gpu.on(x):
        of_x = (x_winners, grad_x_scores)
        of_y = () if grad_y_scores is None else (y_winners, grad_y_scores)
        grad_x = _gradient(x, y, x_mask, y_mask, of_x, of_y) if x_grad else x.new_empty(0)
        grad_y = _gradient(y, x, y_mask, x_mask, _turned(of_y), _turned(of_x)) if y_grad else y.new_empty(0)
        return grad_x, grad_y


def _best(x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None, scores: Tensor, winners: Tensor) -> None:
    from xmkern.ops.late_interaction import triton_kernels as kernels

    x, y = _dense(x), _dense(y)
    (x_samples, x_tokens, depth), (y_samples, y_tokens, _) = x.shape, y.shape
    unit = _unit(x, y)
    row = tuning.chosen(
        "late_interaction.best", gpu.chip_of(x.device), size=x.element_size(), tokens=power_of_two(x_tokens)
    )
    tokens, columns = _tile(y, row["columns"])
    rows = min(row["rows"], max(16, power_of_two(x_tokens)))
    chunk = min(row["chunk"], max(16, power_of_two(depth)))
    of_span, spans = _cut(y_samples, columns // tokens, cdiv(_PROGRAMS, x_samples))
    gpu.launch(
        kernels.best_kernel, x_samples * spans, _operand(x, unit), _operand(y, unit), _mask(x_mask), _mask(y_mask),
        (scores, *scores.stride()), (winners, *winners.stride()[:2]),
        (x_tokens, y_samples, y_tokens, depth // unit, of_span, spans),
        TOKENS=tokens, EVEN=depth % chunk == 0, UNIT=unit, PRECISION=gpu.precision(x.dtype),
        ROWS=rows, COLUMNS=columns, CHUNK=chunk, num_warps=row["warps"], num_stages=row["stages"],
    )  # fmt: skip


def _gradient(
    x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None, of_own: Any, of_others: Any
) -> Tensor:
    from xmkern.ops.late_interaction import triton_kernels as kernels

    (x_samples, x_tokens, depth), (y_samples, y_tokens, _) = x.shape, y.shape
    y = _dense(y)
    unit = _unit(y)
    row = tuning.chosen("late_interaction.gradient", gpu.chip_of(y.device), size=y.element_size())
    tokens, columns = _tile(y, row["columns"])
    rows, part = min(row["rows"], max(16, power_of_two(x_tokens))), min(row["part"], max(16, power_of_two(depth)))
    programs = x_samples * cdiv(x_tokens, rows) * cdiv(depth, part)
    of_span, spans = _cut(y_samples, columns // tokens, min(_MAX_SPANS, cdiv(_PROGRAMS, programs)))
    grad = x.new_empty(spans, *x.shape, dtype=x.dtype if spans == 1 else torch.float32)
    gpu.launch(
        kernels.gradient_kernel, programs * spans, _operand(y, unit), _mask(x_mask), _mask(y_mask),
        _strided(of_own), _strided(of_others), grad,
        (x_samples, x_tokens, y_samples, y_tokens, depth // unit, of_span, spans),
        TOKENS=tokens, UNIT=unit, PRECISION=gpu.precision(x.dtype),
        ROWS=rows, COLUMNS=columns, DEPTH=part, num_warps=row["warps"], num_stages=row["stages"],
    )  # fmt: skip
    return grad[0] if spans == 1 else grad.sum(0).to(x.dtype)


def _tile(y: Tensor, most: int) -> tuple[int, int]:
    """How many tokens of a sample a tile has room for, and how many tokens in all."""
    tokens = min(most, max(16, power_of_two(y.shape[1])))
    return tokens, min(most, tokens * power_of_two(len(y)))


def _cut(samples: int, of_tile: int, parts: int) -> tuple[int, int]:
    """How many samples each of so many parts has, in whole tiles, and how many parts that makes."""
    of_span = cdiv(cdiv(samples, of_tile), parts) * of_tile
    return of_span, cdiv(samples, of_span)


def _counts(x: Tensor, mask: Tensor | None) -> Tensor:
    """Of the tokens of each sample, at least 1."""
    if mask is None:
        return torch.full((len(x),), float(x.shape[1]), device=x.device)
    return mask.sum(1).clamp(min=1)


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()


def _unit(*operands: Tensor) -> int:
    """What depth and strides divide by, 8 or 1: the compiler is told, and reads rows in vectors."""
    return 1 if any(n % 8 for x in operands for n in (x.shape[2], *x.stride()[:2])) else 8


def _operand(x: Tensor, unit: int) -> tuple[Any, ...]:
    return x, x.stride(0) // unit, x.stride(1) // unit


def _mask(mask: Tensor | None) -> tuple[Any, ...]:
    if mask is None:
        return ()
    mask = mask if mask.stride(1) == 1 else mask.contiguous()
    return mask, mask.stride(0)


def _turned(of_side: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.transpose(0, 1) for each in of_side)


def _strided(of_side: tuple[Tensor, ...]) -> tuple[Any, ...]:
    return tuple((each, each.stride(0), each.stride(1)) for each in of_side)
