"""How far the softmax of one matrix of similarities is from that of another: operators, and the gradient.

The reference goes over strips of rows, so that it serves large matrices too: no more than a strip of either is in
memory at once.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmkern.ops.contrastive import cpu_divergence as cpu
from xmkern.ops.gradient import distinct, graded, run_backward
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
def _divergence(*args: Any) -> tuple[Tensor, ...]:
    """-> of the rows [B] sum over j of p log(p / q), where q is the student's softmax and p the teacher's, and the
    log-sum-exps of both in two parts [2, B], the greatest logit and the rest; and of the columns [N] alike (N = 0
    unless ``columns``).

    In two parts, since a logit less the greatest, and then less the rest, may be more exact than one less their sum.
    """
    student, teacher, columns = _parts(args)
    sizes = (student.x.shape[0], student.y.shape[0] if columns else 0)
    of_rows, of_columns = (student.x_scale.new_zeros(size) for size in sizes)
    row_lse, teacher_row_lse, column_lse, teacher_column_lse = (
        student.x_scale.new_full((2, size), -torch.inf) for size in sizes for _ in range(2)
    )
    for rows in _strips(student):
        z, z_teacher = _logits(student, rows), _logits(teacher, rows)
        row_lse[:, rows] = _joined(row_lse[:, rows], z.mT)
        teacher_row_lse[:, rows] = _joined(teacher_row_lse[:, rows], z_teacher.mT)
        _, p, surplus = _compared(z, z_teacher, row_lse[:, rows, None], teacher_row_lse[:, rows, None])
        of_rows[rows] = (p * surplus).sum(1)
        if columns:
            column_lse, teacher_column_lse = _joined(column_lse, z), _joined(teacher_column_lse, z_teacher)
    for rows in _strips(student) if columns else ():
        _, p, surplus = _compared(_logits(student, rows), _logits(teacher, rows), column_lse, teacher_column_lse)
        of_columns += (p * surplus).sum(0)
    return of_rows, row_lse, teacher_row_lse, of_columns, column_lse, teacher_column_lse


def _joined(lse: Tensor, z: Tensor) -> Tensor:
    """Log-sum-exps of columns so far, [2, N], and of more rows of them."""
    peak = torch.maximum(lse[0], z.amax(0))
    return torch.stack((peak, torch.logaddexp(lse[0] - peak + lse[1], (z - peak).logsumexp(0))))


@_without_autocast
def _divergence_backward(
    grad_rows: Tensor,
    grad_columns: Tensor,
    of_rows: Tensor,
    row_lse: Tensor,
    teacher_row_lse: Tensor,
    of_columns: Tensor,
    column_lse: Tensor,
    teacher_column_lse: Tensor,
    *args: Any,
) -> tuple[Tensor, ...]:
    """-> gradients of the student's four and of the teacher's; of what is not wanted no elements"""
    *args, x_grad, y_grad, teacher_grad = args  # type: ignore[assignment]
    student, teacher, columns = _parts(args)
    sides = (student, teacher) if teacher_grad else (student,)
    grads = [Similarities(*map(torch.zeros_like, side)) for side in sides]
    for rows in _strips(student):
        z, z_teacher = _logits(student, rows), _logits(teacher, rows)
        slopes = _slopes(
            *_compared(z, z_teacher, row_lse[:, rows, None], teacher_row_lse[:, rows, None]),
            grad_rows[rows, None], of_rows[rows, None],
        )  # fmt: skip
        if columns:
            more = _slopes(*_compared(z, z_teacher, column_lse, teacher_column_lse), grad_columns, of_columns)
            slopes = (slopes[0] + more[0], slopes[1] + more[1])
        for side, grad, slope in zip(sides, grads, slopes, strict=False):
            of_products = slope * side.x_scale[rows, None] * side.y_scale
            if x_grad or side is teacher:
                grad.x[rows] = of_products @ side.y
            if y_grad or side is teacher:
                grad.y.addmm_(of_products.mT, side.x[rows])
            products = slope * (side.x[rows] @ side.y.mT)
            grad.x_scale[rows] = products @ side.y_scale
            grad.y_scale.addmv_(products.mT, side.x_scale[rows])
    found = [
        part.to(operand.dtype) for part, operand in zip((part for grad in grads for part in grad), args, strict=False)
    ]
    return tuple(
        each if want else each.new_empty(0)
        for each, want in zip([*found, *found][:8], _wanted(x_grad, y_grad, teacher_grad), strict=True)
    )


def _wanted(x_grad: bool, y_grad: bool, teacher_grad: bool) -> tuple[bool, ...]:
    """Which of the eight gradients."""
    return x_grad, y_grad, True, True, *(teacher_grad,) * 4


def _parts(args: Any) -> tuple[Similarities, Similarities, bool]:
    """In the dtype of the scales: rounded logits, that do not agree with their log-sum-exps, would be at some distance
    from themselves."""
    wide = [tensor.to(args[2].dtype) for tensor in args[:8]]
    return Similarities(*wide[:4]), Similarities(*wide[4:]), args[8]


def _strips(side: Similarities) -> Iterator[slice]:
    height = max(_STRIP // max(side.y.shape[0], 1), 16)
    last = side.x.shape[0] if side.y.shape[0] else 0
    return (slice(first, first + height) for first in range(0, last, height))


def _logits(side: Similarities, rows: slice) -> Tensor:
    return (side.x[rows] @ side.y.mT) * side.x_scale[rows, None] * side.y_scale


def _compared(z: Tensor, z_teacher: Tensor, lse: Tensor, teacher_lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-> q, p and log(p / q)"""
    log_q, log_p = z - lse[0] - lse[1], z_teacher - teacher_lse[0] - teacher_lse[1]
    return log_q.exp(), log_p.exp(), log_p - log_q


def _slopes(q: Tensor, p: Tensor, surplus: Tensor, grad: Tensor, divergence: Tensor) -> tuple[Tensor, Tensor]:
    """How grad * divergence changes with the student's logits, and with the teacher's."""
    return grad * (q - p), grad * p * (surplus - divergence)


def _sample() -> tuple[Any, ...]:
    sides = [Similarities(torch.randn(20, 6), torch.randn(30, 6), torch.rand(20), torch.rand(30)) for _ in range(2)]
    return *sides[0], *sides[1], True


def _sample_backward() -> tuple[Any, ...]:
    args = _sample()
    return torch.randn(20), torch.randn(30), *_divergence(*args), *args, True, True, True


def _fake(*args: Any) -> tuple[Tensor, ...]:
    rows, columns = args[0].shape[0], args[1].shape[0] if args[8] else 0
    return tuple(args[2].new_empty(shape) for size in (rows, columns) for shape in ((size,), (2, size), (2, size)))


def _fake_backward(*args: Any) -> tuple[Tensor, ...]:
    wanted = _wanted(*args[-3:])
    return tuple(each.new_empty(each.shape if want else (0,)) for each, want in zip(args[8:16], wanted, strict=True))


_OPERANDS = (
    "Tensor x, Tensor y, Tensor x_scale, Tensor y_scale, Tensor teacher_x, Tensor teacher_y, Tensor teacher_x_scale, "
    "Tensor teacher_y_scale, bool columns"
)

similarity_divergence = Op(
    f"similarity_divergence({_OPERANDS}) -> ({', '.join(['Tensor'] * 6)})",
    backends=[
        Backend("cpu", cpu.similarity_divergence, lambda *args: cpu.refuses(*args)),
        Backend("reference", _divergence),
    ],
    fake=_fake,
    sample=_sample,
)

similarity_divergence_backward = Op(
    "similarity_divergence_backward(Tensor grad_rows, Tensor grad_columns, Tensor of_rows, Tensor row_lse, "
    "Tensor teacher_row_lse, Tensor of_columns, Tensor column_lse, Tensor teacher_column_lse, "
    f"{_OPERANDS}, bool x_grad, bool y_grad, bool teacher_grad) -> ({', '.join(['Tensor'] * 8)})",
    backends=[
        Backend("cpu", cpu.similarity_divergence_backward, lambda *args: cpu.refuses(*args[8:])),
        Backend("reference", _divergence_backward),
    ],
    fake=_fake_backward,
    sample=_sample_backward,
)


class _Divergence(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return similarity_divergence.overload(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.columns, ctx.backend = inputs
        ctx.mark_non_differentiable(*output[1:3], *output[4:])
        ctx.save_for_backward(*output, *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_grad, y_grad, *_ = ctx.needs_input_grad
        teacher_grad = any(ctx.needs_input_grad[4:8])
        args = (grads[0], grads[3], *ctx.saved_tensors, ctx.columns, x_grad, y_grad, teacher_grad, ctx.backend)
        found = run_backward(similarity_divergence_backward, *args, dispatched=True, what="distillation")
        wanted = _wanted(x_grad, y_grad, teacher_grad)
        return *(each if want else None for each, want in zip(found, wanted, strict=True)), None, None


def compare_similarities(
    student: Similarities, teacher: Similarities, *, columns: bool, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """KL(softmax of the teacher's logits || of the student's) of the rows [B], and of the columns [N] where asked for,
    with gradients for both sides. Kept for the backward: the arguments, and six numbers of a row and column."""
    call: Callable[..., Any] = similarity_divergence.overload
    if graded(*student, *teacher):
        call = _Divergence.apply
    of_rows, _, _, of_columns, _, _ = call(*distinct(*student, *teacher), columns, backend)
    return of_rows, of_columns
