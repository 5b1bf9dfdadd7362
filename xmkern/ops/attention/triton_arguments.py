"""What the launchers of attention hand to the Triton kernels: masks and biases lowered, tiles picked."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xmkern.ops import gpu, tuning
from xmkern.ops.attention.layout import strides_of
from xmkern.ops.attention.program import TENSOR_OPERANDS, Code, instructions
from xmkern.ops.dropout import kept_scale, threshold_of
from xmkern.ops.gpu import Chip, power_of_two

FAR = 1 << 29  # lengths stay below it, so that sums of two positions fit in 32 bits


@dataclass(frozen=True)
class Tiles:
    """rows of queries, keys; dropout wants 32 keys or a multiple of 64."""

    rows: int
    keys: int
    warps: int
    stages: int

    @staticmethod
    def of(row: tuning.Row) -> "Tiles":
        return Tiles(row["rows"], row["keys"], row["warps"], row["stages"])

    def fit(self, queries: int, keys: int, of_keys: bool = False) -> "Tiles":
        """No larger than the matrix, where that saves work. of_keys: a program owns keys, and its sums are theirs."""
        rows = min(self.rows, max(16, power_of_two(queries)))
        keys = min(self.keys, max(64, power_of_two(keys)))
        whole = keys == self.keys if of_keys else rows == self.rows
        return Tiles(rows, keys, self.warps if whole else 4, self.stages)


def tiles_of(kernel: str, chip: Chip, depth: int, size: int, crowded: bool = False) -> Tiles:
    """kernel: "forward", "grad_query", "grad_key_value" or "grad_bias", whose tiles are square: diagonals of them are
    summed. depth: the padded head size; size: bytes of an element; crowded: a bias or dropout wants registers too."""
    return Tiles.of(tuning.chosen(f"attention.{kernel}", chip, size=size, depth=depth, crowded=crowded))


@dataclass(frozen=True)
class LoweredMask:
    """program: code, place of its numbers, place of its tensors, for each instruction (see triton_masks.py)."""

    program: tuple[int, ...]
    numbers: tuple[int, ...]
    tensors: tuple[Tensor, ...]

    @property
    def needs_lists(self) -> bool:
        """Whether what it leaves visible can have holes that no two ends describe."""
        return any(code in (4, 5) for code in self.program[::3])

    def list_batches(self, batches: int) -> int:
        """The lists of tiles depend on the sample if a length or an id does."""
        codes = list(zip(self.program[::3], self.program[1::3], strict=True))
        varies = [self.numbers[n] for c, n in codes if c in (3, 5)]
        varies += [self.numbers[n + 2] for c, n in codes if c == 5]
        return batches if any(varies) else 1


def lower_mask(mask: list[int], tensors: list[Tensor]) -> LoweredMask:
    program: list[int] = []
    numbers: list[int] = []
    lowered: list[Tensor] = []
    for code, operands in instructions(mask):
        program += [code, len(numbers), len(lowered)]
        if code == Code.BAND:
            numbers += [_clip(x) for x in operands]
        elif code == Code.GRID:
            text, height, width, *bounds = operands
            numbers += [_clip(text), _clip(text + height * width), max(1, _clip(width)), *map(_clip, bounds)]
        elif code in TENSOR_OPERANDS:
            used = [tensors[t] for t in operands]
            if code == Code.DENSE:  # and which keys some query sees
                flags = used[0]
                used.append(flags if flags.shape[1] == flags.shape[2] == 1 else flags.any((1, 2), keepdim=True))
            lowered += used
            for x in used:
                numbers += strides_of(x)
    return LoweredMask(tuple(program), tuple(numbers), tuple(lowered))


def lower_bias(bias: Tensor | None, buckets: Tensor | None, queries: int) -> tuple[int, tuple[Any, ...]]:
    """The form of a bias (the codes of triton_scores.py) and what ``bias_at`` reads."""
    if bias is None:
        return 0, ()
    if bias.dim() == 4:
        batch, head, query, key = strides_of(bias)
        form = 3 if bias.shape[2] > 1 and bias.shape[3] > 1 else 1 if bias.shape[3] > 1 else 2
        return form, (bias, batch, head, query, key)
    batch, head, step = strides_of(bias)
    if buckets is not None:
        buckets = buckets if buckets.stride(1) == 1 else buckets.contiguous()
        return 4, (bias, batch, head, 0, step, buckets, buckets.stride(0))
    # Toeplitz: element key - query + queries - 1; a view that starts at query 0, key 0.
    return 3, (bias[:, :, min(queries - 1, bias.shape[2] - 1) :], batch, head, -bias.stride(2), bias.stride(2))


def lower_dropout(dropout_p: float, seed: Tensor | None, place: int) -> tuple[Any, ...]:
    """place: of the first key, a multiple of 64."""
    if seed is None:
        return ()
    threshold = threshold_of(dropout_p)
    signed = threshold - 2**32 if threshold >= 2**31 else threshold  # so that its type does not depend on its size
    return seed, signed, kept_scale(dropout_p), place // 4


def precision(dtype: torch.dtype, depth: int, largest: int = 128) -> str:
    """How operands are multiplied: float32 as exactly as torch's own products, which users set.

    Three products in tf32 keep two halves of each operand in registers. What heads above ``largest`` numbers have does
    not fit there, and is multiplied without matrix units.
    """
    found = gpu.precision(dtype)
    return "ieee" if found == "tf32x3" and depth > largest else found


def unit_of(*operands: Tensor) -> int:
    """What all strides divide by, 8 or 1: the compiler is told, and reads rows in vectors."""
    return 8 if all(stride % 8 == 0 for x in operands for stride in strides_of(x)[:3]) else 1


def operand(x: Tensor, unit: int) -> tuple[Any, ...]:
    return (x, *(stride // unit for stride in strides_of(x)[:3]))


def dense(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def _clip(x: int) -> int:
    return max(-FAR, min(FAR, x))
