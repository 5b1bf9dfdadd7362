"""The mask algebra: which keys a query may see, said in a few numbers instead of a matrix.

    causal() & key_lengths(lengths)             padded sequences, left to right
    prefix(lengths)                             an image seen by all, then text left to right
    segments(ids) & band(128, 128)              packed documents, each with a sliding window

A mask is passed to :func:`xmkern.functional.attention`. It is never expanded: the kernels evaluate it as they go and
skip the tiles that it empties. i counts queries from 0 to L - 1, j keys from 0 to S - 1, b the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from xmkern.ops.attention.program import TENSOR_OPERANDS, UNBOUNDED, Code, dense_mask, instructions

__all__ = ["Mask", "axial", "band", "causal", "dense", "key_lengths", "prefix", "segments"]

# The kernels evaluate a program on a stack of this many masks.
_DEEPEST = 32

_AND, _OR, _BAND, _KEY_LENGTHS, _GRID, _SEGMENTS, _DENSE = map(int, Code)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Mask:
    """A mask, made by the functions of this module and combined with ``&`` and ``|``. Frozen.

    Two masks are equal if they say the same in the same order of the very same tensors (compared by identity).
    """

    program: tuple[int, ...]  # see xmkern/ops/attention/program.py
    tensors: tuple[Tensor, ...] = ()

    def __and__(self, other: "Mask") -> "Mask":
        return _join(self, other, _AND) if isinstance(other, Mask) else NotImplemented

    def __or__(self, other: "Mask") -> "Mask":
        return _join(self, other, _OR) if isinstance(other, Mask) else NotImplemented

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.program, tuple(map(id, self.tensors))

    def __repr__(self) -> str:
        stack: list[tuple[int, str]] = []
        for code, operands in instructions(self.program):
            if code in (_AND, _OR):
                stack[-2:] = [(code, _describe_pair(code, *stack[-2:]))]
            else:
                stack.append((code, _describe(code, operands, self.tensors)))
        return stack[0][1]

    def to(self, device: torch.device | str) -> "Mask":
        """The same mask with its tensors on another device."""
        return Mask(self.program, tuple(tensor.to(device) for tensor in self.tensors))

    def to_dense(self, B: int, H: int, L: int, S: int) -> Tensor:
        """bool [B, H, L, S], True where a query may see a key: for looking at, the kernels never make it."""
        self.check(B, H, L, S)
        device = self.tensors[0].device if self.tensors else torch.device("cpu")
        visible = dense_mask(self.program, self.tensors, (B, H, L, S), device)
        assert visible is not None  # a mask has at least one instruction
        return visible

    def check(self, B: int, H: int, L: int, S: int) -> None:
        """Raises ValueError unless the mask's tensors fit B samples, H heads, L queries and S keys."""
        for code, operands in instructions(self.program):
            if code == _KEY_LENGTHS:
                self._check("key_lengths", "[B]", operands[0], (B,))
            elif code == _SEGMENTS:
                self._check("segments: ids", "[B, L]", operands[0], (B, L))
                hint = "; give key_ids, the keys are as many as they" if L != S and operands[0] == operands[1] else ""
                self._check("segments: key_ids", "[B, S]", operands[1], (B, S), hint)
            elif code == _DENSE:
                self._check("dense", "[B, H, L, S]", operands[0], (B, H, L, S))

    def _check(self, name: str, axes: str, place: int, full: tuple[int, ...], hint: str = "") -> None:
        shape = self.tensors[place].shape
        for at in range(len(full)):
            # Ids have no stride for "the same for all": only their batch may be 1.
            if shape[at] != full[at] and (shape[at] != 1 or (len(full) == 2 and at == 1)):
                raise ValueError(
                    f"mask: {name} must fit {axes} = {list(full)} (an axis may be 1), not {list(shape)}{hint}"
                )


# So that transforms of torch, as vmap and export, see the tensors.
pytree.register_pytree_node(
    Mask,
    lambda mask: (list(mask.tensors), mask.program),
    lambda tensors, program: Mask(program, tuple(tensors)),
    flatten_with_keys_fn=lambda mask: (
        [(pytree.SequenceKey(i), tensor) for i, tensor in enumerate(mask.tensors)],
        mask.program,
    ),
)


def causal(offset: int = 0) -> Mask:
    """Key j is visible to query i where j <= i + offset.

    The first query and the first key stand side by side, as in torch's ``is_causal``. To set the last of both side by
    side, as in decoding against a cache, give ``offset = S - L``.
    """
    _whole("causal: offset", offset)
    return Mask((_BAND, -UNBOUNDED, offset))


def band(left: int | None, right: int | None) -> Mask:
    """A sliding window: i - left <= j <= i + right; None leaves a side open."""
    for name, side in (("left", left), ("right", right)):
        if side is not None:
            _whole(f"band: {name}", side)
    return Mask((_BAND, -UNBOUNDED if left is None else -left, UNBOUNDED if right is None else right))


def key_lengths(lengths: Tensor) -> Mask:
    """Padding: key j of sample b is visible where j < lengths[b]; lengths integer [B]."""
    return Mask((_KEY_LENGTHS, 0), (_lengths(lengths),))


def prefix(lengths: Tensor) -> Mask:
    """All see the first lengths[b] keys; the others are causal: j < lengths[b] or j <= i; lengths integer [B].

    The image, or the source, comes first and sees itself both ways; the text after it is read left to right. A length
    of 0 is a causal sample, one of S a bidirectional one, so the three mix in a batch.
    """
    return Mask((_KEY_LENGTHS, 0, _BAND, -UNBOUNDED, 0, _OR), (_lengths(lengths),))


def axial(text_len: int, height: int, width: int, kind: str = "row", kernel: int | None = None) -> Mask:
    """Text, then height x width tokens of an image in rows, read left to right, as in DALL-E (Ramesh et al., 2021).

    Text is causal. A token of the image sees all text and, of the image up to itself, what shares its ``"row"``, its
    ``"column"``, or the kernel x kernel neighbourhood around it (``"conv"``; the kernel is odd).

    There is no wrapping around at the ends of a row. The paper's own row mask, the last ``width + 1`` tokens in raster
    order, is ``band(width, 0)``.
    """
    for name, size, least in (("text_len", text_len, 0), ("height", height, 1), ("width", width, 1)):
        _whole(f"axial: {name}", size)
        if size < least:
            raise ValueError(f"axial: {name} must be at least {least}, not {size}")
    if (kernel is None) == (kind == "conv"):
        raise ValueError(f"axial: kernel goes with kind='conv', and only with it, not kind={kind!r}, kernel={kernel}")
    if kind == "row":
        near = (0, 0, -UNBOUNDED, UNBOUNDED)
    elif kind == "column":
        near = (-UNBOUNDED, UNBOUNDED, 0, 0)
    elif kind == "conv":
        _whole("axial: kernel", kernel)
        if kernel is None or kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"axial: kernel must be odd and positive, not {kernel}")
        near = (-(kernel // 2), kernel // 2, -(kernel // 2), kernel // 2)
    else:
        raise ValueError(f"axial: kind must be 'row', 'column' or 'conv', not {kind!r}")
    return Mask((_BAND, -UNBOUNDED, 0, _GRID, text_len, height, width, *near, _AND))


def segments(ids: Tensor, key_ids: Tensor | None = None) -> Mask:
    """Packed sequences: query i sees key j where ids[b, i] == key_ids[b, j].

    Args:
        ids: integers [B, L], or [L] for all samples alike.
        key_ids: integers [B, S] or [S]; by default the keys are as the queries.
    """
    queries = _ids("ids", ids)
    if key_ids is None:
        return Mask((_SEGMENTS, 0, 0), (queries,))
    keys = _ids("key_ids", key_ids)
    if keys.device != queries.device:
        raise ValueError(f"segments: key_ids must be on {queries.device} as ids are, not on {keys.device}")
    return Mask((_SEGMENTS, 0, 1), (queries, keys))


def dense(visible: Tensor) -> Mask:
    """bool, broadcastable to [B, H, L, S] as torch broadcasts, from the right; True: the query may see the key."""
    if not isinstance(visible, Tensor):
        raise TypeError(f"dense: visible must be a tensor, not {type(visible).__name__}")
    if visible.dtype != torch.bool:
        raise TypeError(f"dense: visible must be bool, True where a query may see a key, not {visible.dtype}")
    if visible.dim() > 4:
        raise ValueError(f"dense: visible must have at most 4 axes, [B, H, L, S], not shape {list(visible.shape)}")
    return Mask((_DENSE, 0), (visible[(None,) * (4 - visible.dim())],))


def _join(a: Mask, b: Mask, code: int) -> Mask:
    shift = len(a.tensors)
    if shift and b.tensors:
        program: tuple[int, ...] = ()
        for each, operands in instructions(b.program):
            count = TENSOR_OPERANDS.get(each, 0)  # type: ignore[call-overload]
            program += (each, *(t + shift for t in operands[:count]), *operands[count:])
    else:
        program = b.program
    joined = (*a.program, *program, code)
    if _depth(joined) > _DEEPEST:
        raise ValueError(f"a mask nests at most {_DEEPEST} deep to the right; join the parts from left to right")
    return Mask(joined, a.tensors + b.tensors)


def _depth(program: tuple[int, ...]) -> int:
    now = most = 0
    for code, _ in instructions(program):
        now += -1 if code in (_AND, _OR) else 1
        most = max(most, now)
    return most


def _lengths(lengths: Tensor) -> Tensor:
    lengths = _integers("lengths", lengths)
    if lengths.dim() != 1:
        raise ValueError(f"lengths must have one axis, [B], not shape {list(lengths.shape)}")
    return lengths


def _ids(name: str, ids: Tensor) -> Tensor:
    ids = _integers(f"segments: {name}", ids)
    if ids.dim() not in (1, 2):
        raise ValueError(f"segments: {name} must have the axes [B, length] or [length], not shape {list(ids.shape)}")
    return ids[None] if ids.dim() == 1 else ids


def _whole(name: str, x: object) -> None:
    # Not isinstance(x, int): it may be NumPy's. Under a compiler it is a symbol, of which nothing can be asked.
    if torch.compiler.is_compiling():
        return
    if isinstance(x, Tensor) or not hasattr(x, "__index__"):
        raise TypeError(f"{name} must be an integer, not {x!r}, the same for all samples")
    if isinstance(x, int) and abs(x) >= 2**63:
        raise ValueError(f"{name} must fit in 64 bits, not be {x}")


def _integers(name: str, x: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor of integers, not {type(x).__name__}")
    if x.dtype == torch.bool or x.is_floating_point() or x.is_complex():
        raise TypeError(f"{name} must hold integers, not {x.dtype}")
    return x.long()


def _describe(code: int, operands: Sequence[int], tensors: tuple[Tensor, ...]) -> str:
    def name(place: int) -> str:
        tensor = tensors[operands[place]]
        where = "" if tensor.device.type == "cpu" else f", {tensor.device}"
        return f"<{list(tensor.shape)}{where}>"

    if code == _BAND:
        low, high = operands
        if high == UNBOUNDED:
            return f"band({None if low == -UNBOUNDED else -low}, None)"
        return f"causal({high or ''})" if low == -UNBOUNDED else f"band({-low}, {high})"
    if code == _KEY_LENGTHS:
        return f"key_lengths({name(0)})"
    if code == _SEGMENTS:
        return f"segments({name(0)})" if operands[0] == operands[1] else f"segments({name(0)}, {name(1)})"
    if code == _DENSE:
        return f"dense({name(0)})"
    text, height, width, row_low, row_high, column_low, _ = operands
    if row_low == row_high == 0:
        kind = "'row'"
    elif column_low == 0:
        kind = "'column'"
    else:
        kind = f"'conv', {2 * row_high + 1}"
    return f"axial({text}, {height}, {width}, {kind})"


def _describe_pair(code: int, left: tuple[int, str], right: tuple[int, str]) -> str:
    if code == _OR:
        if left[0] == _KEY_LENGTHS and right[1] == "causal()":
            return left[1].replace("key_lengths", "prefix")
        return f"{left[1]} | {right[1]}"
    if left[1] == "causal()" and right[0] == _GRID:
        return right[1]  # an axial mask is causal as it is
    return " & ".join(f"({text})" if inner == _OR and " | " in text else text for inner, text in (left, right))
