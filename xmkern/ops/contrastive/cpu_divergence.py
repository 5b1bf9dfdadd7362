"""Launches the C++ kernels of the divergence of two matrices."""

import torch
from torch import Tensor

from xmkern import native
from xmkern.ops.contrastive import cpu


def refuses(x: Tensor, y: Tensor, x_scale: Tensor, y_scale: Tensor, teacher_x: Tensor, *args: object) -> str | None:
    return cpu.refuses(x, y, x_scale) or cpu.refuses(teacher_x, y, x_scale)


def similarity_divergence(*args: Tensor) -> tuple[Tensor, ...]:
    *tensors, columns = args
    call, kept, _ = _call(tensors, bool(columns))
    sides = [
        [torch.empty(shape, dtype=torch.float32, device="cpu") for shape in ((size,), (2, size), (2, size))]
        for size in (args[0].shape[0], args[1].shape[0] if columns else 0)
    ]
    native.module().contrastive.divergence(
        *call, *([each.data_ptr() for each in side] for side in sides), torch.get_num_threads()
    )
    del kept
    return *sides[0], *sides[1]


def similarity_divergence_backward(grad_rows: Tensor, grad_columns: Tensor, *args: Tensor) -> tuple[Tensor, ...]:
    *found, x_grad, y_grad, teacher_grad = args
    rows, columns, tensors = [*found[:3], grad_rows], [*found[3:6], grad_columns], found[6:14]
    call, kept, operands = _call(tensors, bool(found[14]))
    given = [[each.contiguous() for each in side] for side in (rows, columns)]
    grads = []
    for (x, y), wanted in ((operands[:2], (x_grad, y_grad)), (operands[2:], (teacher_grad, teacher_grad))):
        sums, scales, _ = cpu.gradients(x, y, bool(wanted[0]), bool(wanted[1]))
        grads.append((sums, scales))
    native.module().contrastive.divergence_backward(
        *call,
        *([each.data_ptr() for each in side] for side in given),
        *([each.data_ptr() for part in grad for each in part] for grad in grads),
        bool(teacher_grad),
        torch.get_num_threads(),
    )
    del kept
    (sums, scales), (teacher_sums, teacher_scales) = grads
    if not teacher_grad:
        teacher_scales = [each.new_empty(0) for each in teacher_scales]
    of_teacher = cpu.rounded(teacher_sums, tensors[4], tensors[5])
    return *cpu.rounded(sums, tensors[0], tensors[1]), *scales, *of_teacher, *teacher_scales


def _call(tensors: list[Tensor], columns: bool) -> tuple[tuple[object, ...], object, list[Tensor]]:
    """The arguments that both directions share, the tensors that must outlive the call, and x, y and the teacher's."""
    x, y, x_scale, y_scale, teacher_x, teacher_y, teacher_x_scale, teacher_y_scale = tensors
    operands = [x, y, teacher_x, teacher_y]
    if x.dtype != teacher_x.dtype:
        operands = [each.float() for each in operands]
    scales = (x_scale, y_scale, teacher_x_scale, teacher_y_scale)
    sides = [cpu.side(each, scale, None, None, None) for each, scale in zip(operands, scales, strict=True)]
    call = [cpu.addresses(each, side) for each, side in zip(operands, sides, strict=True)]
    numbers = (cpu.numbers(operand, "logsumexp", columns, None) for operand in (operands[0], operands[2]))
    return (*call, *numbers), sides, operands
