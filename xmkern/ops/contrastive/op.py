"""The operators of contrastive losses: schemas, fakes, backends, and the gradient."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmkern.ops.contrastive import cpu, reference, triton
from xmkern.ops.gradient import dispatched, distinct, graded, run, run_backward
from xmkern.ops.registry import Backend, Op

WHAT = "a contrastive loss"  # has the gradients, for whom it tells
LAUNCHERS: dict[str, ModuleType] = {"cpu": cpu, "triton": triton}


class Pairs(NamedTuple):
    """Which pairs (i, j) of rows and columns are positive, and which are hidden; all others are negative.

    x_ids int64 [B] and y_ids int64 [N], or relevance bool [B, N]: positive where ids are equal, or where it is True.
    x_groups int64 [B] and y_groups int64 [N]: hidden where equal, unless positive.
    x_offset [B] and y_offset [N], in the dtype of the scales: for ``"margin"`` the margin, for ``"hinge"`` the margin
    minus the logit of the row's, or the column's, one positive pair. y_offset only where columns are reduced.
    """

    x_ids: Tensor | None = None
    y_ids: Tensor | None = None
    x_groups: Tensor | None = None
    y_groups: Tensor | None = None
    relevance: Tensor | None = None
    x_offset: Tensor | None = None
    y_offset: Tensor | None = None


_ALL_NEGATIVE = Pairs()


class Reduced(NamedTuple):
    """Reductions of the rows [B], and of the columns [N] where asked for: see ``reference.similarity_reduce``."""

    value: Tensor
    positive: Tensor
    count: Tensor  # type: ignore[assignment]  # a tuple has a method of this name, which nobody needs here
    column_value: Tensor
    column_positive: Tensor
    column_count: Tensor


def _backends(name: str, refuses: Callable[[Any], Callable[..., str | None]]) -> list[Backend]:
    """The launchers that have a function of this name, and the reference."""
    fast = [Backend(kind, getattr(own, name), refuses(own)) for kind, own in LAUNCHERS.items() if hasattr(own, name)]
    return [*fast, Backend("reference", getattr(reference, name))]


def _refuses_backward(own: Any) -> Callable[..., str | None]:
    """A launcher's ``refuses`` takes the forward's arguments."""
    return lambda *args: own.refuses(*args[4:16], *args[20:22])


def _fake_reduce(x: Tensor, y: Tensor, x_scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    sizes = (x.shape[0], y.shape[0] if rest[-1] else 0)
    parts = (
        (x_scale.new_empty(size), x_scale.new_empty(size), x_scale.new_empty(size, dtype=torch.int64)) for size in sizes
    )
    return tuple(part for of_axis in parts for part in of_axis)


def _fake_backward(*args: Any) -> tuple[Tensor, ...]:
    return fake_gradients(args[4:9], *args[-2:])


def fake_gradients(operands: Sequence[Tensor], x_grad: bool, y_grad: bool) -> tuple[Tensor, ...]:
    wanted = (x_grad, y_grad, True, True, True)
    return tuple(each.new_empty(each.shape if want else (0,)) for each, want in zip(operands, wanted, strict=True))


def _sample() -> tuple[Any, ...]:
    x, y, scales = torch.randn(20, 24), torch.randn(30, 24), torch.rand(50)
    ids, groups = torch.arange(50) % 20, torch.arange(50) % 7
    pairs = (ids[:20], ids[20:], groups[:20], groups[20:], None, None, None)
    return x, y, scales[:20], scales[20:], torch.tensor(-0.5), *pairs, "logsumexp", True


def _sample_backward() -> tuple[Any, ...]:
    args = _sample()
    row_value, row_positive, _, column_value, column_positive, _ = reference.similarity_reduce(*args)
    results = (row_value, row_positive, column_value, column_positive)
    return *map(torch.randn_like, results), *args[:12], *results, *args[12:], True, True


_OPERANDS = (
    "Tensor x, Tensor y, Tensor x_scale, Tensor y_scale, Tensor bias, Tensor? x_ids, Tensor? y_ids, Tensor? x_groups, "
    "Tensor? y_groups, Tensor? relevance, Tensor? x_offset, Tensor? y_offset"
)

similarity_reduce = Op(
    f"similarity_reduce({_OPERANDS}, str kind, bool columns) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    backends=_backends("similarity_reduce", lambda own: own.refuses),
    fake=_fake_reduce,
    sample=_sample,
)

similarity_reduce_backward = Op(
    "similarity_reduce_backward(Tensor grad_row_value, Tensor grad_row_positive, Tensor grad_column_value, "
    f"Tensor grad_column_positive, {_OPERANDS}, Tensor row_value, Tensor row_positive, Tensor column_value, "
    "Tensor column_positive, str kind, bool columns, bool x_grad, bool y_grad) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    backends=_backends("similarity_reduce_backward", _refuses_backward),
    fake=_fake_backward,
    sample=_sample_backward,
)


class _Reduce(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *args: Any) -> tuple[Tensor, ...]:
        return run(similarity_reduce, x, *args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options = inputs[12:]
        ctx.dispatched = dispatched(inputs[0])
        ctx.save_for_backward(*inputs[:12], *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # read once: checkpointing makes them anew, and for one reading
        operands, results = saved[:12], saved[12:]
        kind, columns, backend = ctx.options
        x_grad, y_grad = ctx.needs_input_grad[:2]
        if all(grad is None for grad in grads):
            return (None,) * 15
        filled = [
            torch.zeros_like(result) if grad is None else grad for grad, result in zip(grads, results, strict=True)
        ]
        sides = []
        for (value, positive, _), (*_, count) in ((filled[:3], results[:3]), (filled[3:], results[3:])):
            # The offset holds the positive pair's logit, which so moves all of the terms that are counted.
            sides += [value, positive - value * count if kind == "hinge" else positive]
        row_value, row_positive, _, column_value, column_positive, _ = results
        args = (
            *sides,
            *operands,
            row_value,
            row_positive,
            column_value,
            column_positive,
            kind,
            columns,
            x_grad,
            y_grad,
        )
        grad_x, grad_y, *of_numbers = run_backward(
            similarity_reduce_backward, *args, backend, dispatched=ctx.dispatched, what=WHAT
        )
        return grad_x if x_grad else None, grad_y if y_grad else None, *of_numbers, *(None,) * 10


def reduce_similarities(
    x: Tensor,
    y: Tensor,
    x_scale: Tensor,
    y_scale: Tensor,
    bias: Tensor,
    pairs: Pairs = _ALL_NEGATIVE,
    *,
    kind: str,
    columns: bool,
    backend: str = "auto",
) -> Reduced:
    """Reductions of z[i, j] = x_scale[i] * y_scale[j] * <x[i], y[j]> + bias, with gradients for all five.

    Kept for the backward: the arguments, and six numbers of a row and column.

    With kind ``"hinge"`` each row, and each column if ``columns``, has exactly one positive pair. Its logit is in the
    offset, which gets no gradient: the backward adds to that pair what the offset passes on, in one sum with the rest
    of the gradient, and so before it is rounded to the dtype of x. ``"maximum"`` has no gradient.

    Args:
        x: [B, D].
        y: [N, D], of the dtype of x.
        x_scale: [B]; y_scale [N]; bias []: float32, or float64 where x is.
        pairs: which pairs are positive, and which are hidden.
        kind: ``"logsumexp"``, ``"mil"``, ``"softplus"``, ``"hinge"``, ``"margin"`` or ``"maximum"``: see
            ``reference.similarity_reduce``.
        columns: whether to reduce the columns too; else what is returned for them has no elements.
        backend: as in ``xmkern.functional``.
    """
    if kind == "maximum":
        x, y, x_scale, y_scale, bias = (each.detach() for each in (x, y, x_scale, y_scale, bias))
    elif graded(x, y, x_scale, y_scale, bias):
        return Reduced(*_Reduce.apply(*distinct(x, y, x_scale, y_scale, bias, *pairs), kind, columns, backend))
    return Reduced(*run(similarity_reduce, x, y, x_scale, y_scale, bias, *pairs, kind, columns, backend))
