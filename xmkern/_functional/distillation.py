"""The public call that teaches one matrix of similarities to another."""

from typing import Literal

from torch import Tensor

from xmkern._functional.similarities import check_reduction, check_symmetric, operands, reduced
from xmkern.ops.contrastive.divergence import Similarities, compare_similarities


def distillation(
    x: Tensor,
    y: Tensor,
    logit_scale: float | Tensor,
    teacher_x: Tensor,
    teacher_y: Tensor,
    teacher_scale: float | Tensor,
    *,
    symmetric: bool = True,
    reduction: Literal["mean", "sum", "none"] = "mean",
    normalize: bool = False,
    backend: str = "auto",
) -> Tensor:
    """KL(softmax(teacher_scale * teacher_x teacher_y^T) || softmax(logit_scale * x y^T)) of each row, neither made.

    Soft targets (Hinton et al., 2015) for a contrastive model, and the alignment of COTS's tasks (Lu et al., 2022).
    Gradients come for both sides: detach the teacher's arguments where it is to stay as it is, which also spares a
    quarter of the work. Memory, of the forward and of what is kept for the backward, is that of the arguments and some
    numbers a row; the reference takes that of a strip of rows too, while at work. Sums are in float32 for float32,
    bfloat16 and float16; float64 is served by the reference. Under autocast all four are cast as a matrix product casts
    them.

    Args:
        x: [B, D], the rows of the student.
        y: [N, D], its columns.
        logit_scale: a number, or a tensor of one element: the inverse temperature itself, not its logarithm.
        teacher_x: [B, E], the rows of the teacher.
        teacher_y: [N, E], its columns.
        teacher_scale: as logit_scale.
        symmetric: whether to average that with the divergence of the columns, each a distribution over the rows.
        reduction: ``"mean"`` over the rows (and the columns), 0 if there are none; ``"sum"``; or ``"none"``, [B], where
            those of row i and column i are averaged (N = B if ``symmetric``).
        normalize: whether to divide all four by their L2 norms, at least 1e-12.

    Returns:
        The loss in float32 (float64 for float64).

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    check_reduction(reduction)
    *student, _ = operands(x, y, logit_scale, None, normalize)
    names = ("teacher_x", "teacher_y", "teacher_scale")
    *teacher, _ = operands(teacher_x, teacher_y, teacher_scale, None, normalize, names)
    for name, mine, theirs in (("teacher_x", x, teacher_x), ("teacher_y", y, teacher_y)):
        if theirs.shape[0] != mine.shape[0]:
            raise ValueError(f"{name} must have {mine.shape[0]} rows as {name[-1]} has, not {theirs.shape[0]}")
    if teacher_x.device != x.device:
        raise ValueError(f"teacher_x must be on {x.device} as x is, not on {teacher_x.device}")
    if reduction == "none":
        check_symmetric(symmetric, x, y)
    of_rows, of_columns = compare_similarities(
        Similarities(*student), Similarities(*teacher), columns=symmetric, backend=backend
    )
    loss = reduced(of_rows, reduction)
    return (loss + reduced(of_columns, reduction)) / 2 if symmetric else loss
