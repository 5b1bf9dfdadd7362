"""How far the softmax of one matrix of similarities is from that of another: operators, and the gradient.

The reference goes over strips of rows, so that it is the implementation too: no more than a strip of either matrix is
in memory at once.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from xmkern.ops.contrastive.op import distinct, graded, reduce_similarities
from xmkern.ops.registry import Backend, Op

_STRIP = 2**20  # logits; at least 16 rows


class Similarities(NamedTuple):
    """z[i, j] = x_scale[i] * y_scale[j] * <x[i], y[j]>, as in ``reduce_similarities``."""

    x: Tensor
    y: Tensor
    x_scale: Tensor
    y_scale: Tensor


def _without_autocast(implementation: Callable[..., Any]) -> Callable[..., Any]:
    """The dtypes are settled before an operator is called."""

    def call(*args: Any) -> Any:
        with torch.autocast(args[0].device.type, enabled=False):
            return implementation(*args)

    return call


@_without_autocast
def _divergence(*args: Any) -> tuple[Tensor, Tensor]:
    """-> sum over j of p log(p / q) of the rows [B], and over i of the columns [N] (of no elements unless ``columns``),
    where q is the student's softmax and p the teacher's."""
    student, teacher, (row_lse, teacher_row_lse, column_lse, teacher_column_lse), columns = _parts(args)
    of_rows, of_columns = torch.zeros_like(row_lse), torch.zeros_like(column_lse)
    for rows in _strips(student):
        z, z_teacher = _logits(student, rows), _logits(teacher, rows)
        _, p, surplus = _compared(z, z_teacher, row_lse[rows, None], teacher_row_lse[rows, None])
        of_rows[rows] = (p * surplus).sum(1)
        if columns:
            _, p, surplus = _compared(z, z_teacher, column_lse, teacher_column_lse)
            of_columns += (p * surplus).sum(0)
    return of_rows, of_columns


@_without_autocast
def _divergence_backward(
    grad_rows: Tensor, grad_columns: Tensor, of_rows: Tensor, of_columns: Tensor, *args: Any
) -> tuple[Tensor, ...]:
    """-> gradients of the student's four and of the teacher's (of no elements unless ``teacher_grad``)"""
    teacher_grad = args[-1]
    student, teacher, (row_lse, teacher_row_lse, column_lse, teacher_column_lse), columns = _parts(args)
    sides = (student, teacher) if teacher_grad else (student,)
    grads = [Similarities(*map(torch.zeros_like, side)) for side in sides]
    for rows in _strips(student):
        z, z_teacher = _logits(student, rows), _logits(teacher, rows)
        slopes = _slopes(
            *_compared(z, z_teacher, row_lse[rows, None], teacher_row_lse[rows, None]),
            grad_rows[rows, None], of_rows[rows, None],
        )  # fmt: skip
        if columns:
            more = _slopes(*_compared(z, z_teacher, column_lse, teacher_column_lse), grad_columns, of_columns)
            slopes = (slopes[0] + more[0], slopes[1] + more[1])
        for side, grad, slope in zip(sides, grads, slopes, strict=False):
            of_products = slope * side.x_scale[rows, None] * side.y_scale
            grad.x[rows] = of_products @ side.y
            grad.y.addmm_(of_products.mT, side.x[rows])
            products = slope * (side.x[rows] @ side.y.mT)
            grad.x_scale[rows] = products @ side.y_scale
            grad.y_scale.addmv_(products.mT, side.x_scale[rows])
    found = [part for grad in grads for part in grad]
    return *found, *(row_lse.new_empty(0) for _ in range(8 - len(found)))


def _parts(args: Any) -> tuple[Similarities, Similarities, Any, bool]:
    return Similarities(*args[:4]), Similarities(*args[4:8]), args[8:12], args[12]


def _strips(side: Similarities) -> Iterator[slice]:
    height = max(_STRIP // max(side.y.shape[0], 1), 16)
    return (slice(first, first + height) for first in range(0, side.x.shape[0], height))


def _logits(side: Similarities, rows: slice) -> Tensor:
    return (side.x[rows] @ side.y.mT) * side.x_scale[rows, None] * side.y_scale


def _compared(z: Tensor, z_teacher: Tensor, lse: Tensor, teacher_lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-> q, p and log(p / q)"""
    log_q, log_p = z - lse, z_teacher - teacher_lse
    return log_q.exp(), log_p.exp(), log_p - log_q


def _slopes(q: Tensor, p: Tensor, surplus: Tensor, grad: Tensor, divergence: Tensor) -> tuple[Tensor, Tensor]:
    """How grad * divergence changes with the student's logits, and with the teacher's."""
    return grad * (q - p), grad * p * (surplus - divergence)


def _sample() -> tuple[Any, ...]:
    sides = [Similarities(torch.randn(20, 6), torch.randn(30, 6), torch.rand(20), torch.rand(30)) for _ in range(2)]
    lses = [(_logits(side, slice(None)).logsumexp(axis)) for axis in (1, 0) for side in sides]
    return *sides[0], *sides[1], *lses, True


def _sample_backward() -> tuple[Any, ...]:
    args = _sample()
    return torch.randn(20), torch.randn(30), *_divergence(*args), *args, True


def _fake_backward(*args: Any) -> tuple[Tensor, ...]:
    kept = 8 if args[-1] else 4
    return tuple(operand.new_empty(operand.shape if i < kept else (0,)) for i, operand in enumerate(args[4:12]))


_OPERANDS = (
    "Tensor x, Tensor y, Tensor x_scale, Tensor y_scale, Tensor teacher_x, Tensor teacher_y, Tensor teacher_x_scale, "
    "Tensor teacher_y_scale, Tensor row_lse, Tensor teacher_row_lse, Tensor column_lse, Tensor teacher_column_lse, "
    "bool columns"
)

similarity_divergence = Op(
    f"similarity_divergence({_OPERANDS}) -> (Tensor, Tensor)",
    backends=[Backend("reference", _divergence)],
    fake=lambda *args: (args[8].new_empty(args[8].shape), args[10].new_empty(args[10].shape)),
    sample=_sample,
)

similarity_divergence_backward = Op(
    "similarity_divergence_backward(Tensor grad_rows, Tensor grad_columns, Tensor of_rows, Tensor of_columns, "
    f"{_OPERANDS}, bool teacher_grad) -> ({', '.join(['Tensor'] * 8)})",
    backends=[Backend("reference", _divergence_backward)],
    fake=_fake_backward,
    sample=_sample_backward,
)


class _Gradient(torch.autograd.Function):
    """The backward, with none of its own: see attention's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return similarity_divergence_backward.overload(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise NotImplementedError("distillation has a first derivative only, and here its gradient is differentiated")


class _Divergence(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return _forward(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.columns, ctx.backend = inputs
        ctx.save_for_backward(*output, *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        teacher_grad = any(ctx.needs_input_grad[4:8])
        args = (*grads, *saved[:2], *_widened(saved[2:]), ctx.columns, teacher_grad, ctx.backend)
        twice = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        found = _Gradient.apply(*args) if twice else similarity_divergence_backward.overload(*args)
        kept = 8 if teacher_grad else 4
        rounded = [grad.to(operand.dtype) for grad, operand in zip(found[:kept], saved[2:], strict=False)]
        return *rounded, *(None,) * (14 - kept)


def _widened(tensors: Sequence[Tensor]) -> list[Tensor]:
    """In the dtype of the student's scales: rounded logits, that do not agree with their log-sum-exps, would be at some
    distance from themselves."""
    return [tensor.to(tensors[2].dtype) for tensor in tensors]


def compare_similarities(
    student: Similarities, teacher: Similarities, *, columns: bool, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """KL(softmax of the teacher's logits || of the student's) of the rows [B], and of the columns [N] where asked for,
    with gradients for both sides. Kept for the backward: the arguments, and six numbers of a row and column."""
    parts = _widened([part.detach() for part in (*student, *teacher)])
    of_student, of_teacher = (
        reduce_similarities(
            *Similarities(*side), side[2].new_zeros(()), kind="logsumexp", columns=columns, backend=backend
        )
        for side in (parts[:4], parts[4:])
    )
    lses = (of_student.value, of_teacher.value, of_student.column_value, of_teacher.column_value)
    call = _Divergence.apply if graded(*student, *teacher) else _forward
    of_rows, of_columns = call(*distinct(*student, *teacher, *lses), columns, backend)
    return of_rows, of_columns


def _forward(*args: Any) -> tuple[Tensor, Tensor]:
    *tensors, columns, backend = args
    return similarity_divergence.overload(*_widened(tensors), columns, backend)
