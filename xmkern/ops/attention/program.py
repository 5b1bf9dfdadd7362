"""Mask programs: postfix lists of integers and the tensors that they refer to.

Each instruction is its code followed by its operands; AND and OR pop two masks and push one, all others push one. An
empty program means that everything is visible. i counts queries, j keys, b the batch, h heads.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum

import torch
from torch import Tensor


class Code(IntEnum):
    AND = 0
    OR = 1
    BAND = 2  # lo hi: lo <= j - i <= hi
    KEY_LENGTHS = 3  # t: j < tensors[t][b]; int64 [B]
    GRID = 4  # text height width row_lo row_hi col_lo col_hi: see grid()
    SEGMENTS = 5  # tq tk: tensors[tq][b, i] == tensors[tk][b, j]; int64 [B|1, L] and [B|1, S]
    DENSE = 6  # t: tensors[t][b, h, i, j]; bool, each axis full or 1


OPERANDS = {
    Code.AND: 0,
    Code.OR: 0,
    Code.BAND: 2,
    Code.KEY_LENGTHS: 1,
    Code.GRID: 7,
    Code.SEGMENTS: 2,
    Code.DENSE: 1,
}

# How many of an instruction's operands, from the first, are numbers of tensors.
TENSOR_OPERANDS = {Code.KEY_LENGTHS: 1, Code.SEGMENTS: 2, Code.DENSE: 1}

UNBOUNDED = 2**62


def instructions(program: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    """Each code and its operands."""
    at = 0
    while at < len(program):
        code = program[at]
        end = at + 1 + OPERANDS[code]  # type: ignore[index]
        yield code, program[at + 1 : end]
        at = end


def dense_mask(
    program: Sequence[int], tensors: Sequence[Tensor], shape: tuple[int, int, int, int], device: torch.device
) -> Tensor | None:
    """bool, broadcastable to [B, H, L, S]: True is visible. None for the empty program."""
    _, _, queries, keys = shape
    i = torch.arange(queries, device=device)[:, None]
    j = torch.arange(keys, device=device)[None, :]
    stack: list[Tensor] = []
    for code, operands in instructions(program):
        if code == Code.AND:
            stack[-2:] = [stack[-2] & stack[-1]]
        elif code == Code.OR:
            stack[-2:] = [stack[-2] | stack[-1]]
        elif code == Code.BAND:
            low, high = operands
            stack.append(((j - i >= low) & (j - i <= high))[None, None])
        elif code == Code.KEY_LENGTHS:
            stack.append(j < tensors[operands[0]][:, None, None, None])
        elif code == Code.GRID:
            stack.append(grid(i, j, *operands)[None, None])
        elif code == Code.SEGMENTS:
            ids, key_ids = (tensors[t] for t in operands)
            stack.append(ids[:, None, :, None] == key_ids[:, None, None, :])
        else:
            stack.append(tensors[operands[0]])
    return torch.broadcast_to(stack[0], shape) if stack else None


def grid(
    i: Tensor, j: Tensor, text: int, height: int, width: int, row_lo: int, row_hi: int, col_lo: int, col_hi: int
) -> Tensor:
    """``text`` tokens, then height x width tokens of an image in rows. All see the text; a token of the image sees
    those of the image whose row and column differ from its own by at least the low and at most the high bounds."""
    rows = (j - text).div(width, rounding_mode="floor") - (i - text).div(width, rounding_mode="floor")
    columns = (j - text) % width - (i - text) % width
    near = (rows >= row_lo) & (rows <= row_hi) & (columns >= col_lo) & (columns <= col_hi)
    end = text + height * width
    return (j < text) | ((i >= text) & (i < end) & (j >= text) & (j < end) & near)
