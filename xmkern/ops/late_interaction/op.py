"""The operators of late interaction: schemas, fakes, backends, and the gradient."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from xmkern.ops.dtype import wide_dtype
from xmkern.ops.gradient import dispatched, distinct, graded, run, run_backward
from xmkern.ops.late_interaction import cpu, reference, triton
from xmkern.ops.late_interaction.reference import index_dtype
from xmkern.ops.registry import Backend, Op

LAUNCHERS: dict[str, ModuleType] = {"cpu": cpu, "triton": triton}


def _backends(name: str, refuses: Callable[[Any], Callable[..., str | None]]) -> list[Backend]:
    """The launchers that have a function of this name, and the reference."""
    fast = [Backend(kind, getattr(own, name), refuses(own)) for kind, own in LAUNCHERS.items() if hasattr(own, name)]
    return [*fast, Backend("reference", getattr(reference, name))]


def _fake_forward(
    x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None, mean: bool, both: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (B, R, _), (N, T, _) = x.shape, y.shape
    pairs, wide = (B, N), wide_dtype(x.dtype)
    return (
        x.new_empty(pairs, dtype=wide),
        x.new_empty(pairs if both else 0, dtype=wide),
        x.new_empty((*pairs, R), dtype=index_dtype(T)),
        x.new_empty((*pairs, T) if both else 0, dtype=index_dtype(R)),
    )


def _fake_backward(
    grad_x_scores: Tensor, grad_y_scores: Tensor | None, x: Tensor, y: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    x_grad, y_grad = rest[-2:]
    return x.new_empty(x.shape if x_grad else (0,)), y.new_empty(y.shape if y_grad else (0,))


def _sample() -> tuple[Any, ...]:
    # Whole numbers: no rounding decides between two similarities.
    x, y = (torch.randint(-3, 4, shape).float() for shape in ((5, 9, 24), (6, 20, 24)))
    return x, y, torch.rand(5, 9) < 0.8, torch.rand(6, 20) < 0.8, True, True


def _sample_backward() -> tuple[Any, ...]:
    x, y, x_mask, y_mask, mean, both = _sample()
    x_scores, y_scores, *winners = reference.max_similarity(x, y, x_mask, y_mask, mean, both)
    return torch.randn_like(x_scores), torch.randn_like(y_scores), x, y, x_mask, y_mask, *winners, mean, True, True


max_similarity_forward = Op(
    "max_similarity(Tensor x, Tensor y, Tensor? x_mask, Tensor? y_mask, bool mean, bool both) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    backends=_backends("max_similarity", lambda own: own.refuses),
    fake=_fake_forward,
    sample=_sample,
)

max_similarity_backward = Op(
    "max_similarity_backward(Tensor grad_x_scores, Tensor? grad_y_scores, Tensor x, Tensor y, Tensor? x_mask, "
    "Tensor? y_mask, Tensor x_winners, Tensor y_winners, bool mean, bool x_grad, bool y_grad) -> (Tensor, Tensor)",
    backends=_backends("max_similarity_backward", lambda own: lambda *args: own.refuses(*args[2:4])),
    fake=_fake_backward,
    sample=_sample_backward,
)


class _MaxSimilarity(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return run(max_similarity_forward, *args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options = inputs[4:]
        ctx.pairs = output[0].shape
        ctx.dispatched = dispatched(inputs[0])
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*inputs[:4], *output[2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_x_scores: Tensor | None, grad_y_scores: Tensor | None, *rest: None) -> Any:
        operands = ctx.saved_tensors
        mean, both, backend = ctx.options
        if grad_x_scores is None and grad_y_scores is None:
            return (None,) * 7
        nothing = operands[0].new_zeros(ctx.pairs, dtype=wide_dtype(operands[0].dtype))
        grad_x_scores = nothing if grad_x_scores is None else grad_x_scores
        if both and grad_y_scores is None:
            grad_y_scores = nothing
        x_grad, y_grad = ctx.needs_input_grad[:2]
        args = (grad_x_scores, grad_y_scores if both else None, *operands, mean, x_grad, y_grad, backend)
        grad_x, grad_y = run_backward(max_similarity_backward, *args, dispatched=ctx.dispatched)
        return grad_x if x_grad else None, grad_y if y_grad else None, *(None,) * 5


def max_similarity(
    x: Tensor,
    y: Tensor,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    *,
    mean: bool = True,
    both: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The operator with its gradient -> scores [B, N] of x's tokens and of y's (of no elements unless ``both``).

    Kept for the backward: the arguments and the winners, one small integer for a token and a sample of the other side.
    """
    if graded(x, y):
        x_scores, y_scores, *_ = _MaxSimilarity.apply(*distinct(x, y, x_mask, y_mask), mean, both, backend)
    else:
        x_scores, y_scores, *_ = run(max_similarity_forward, x, y, x_mask, y_mask, mean, both, backend)
    return x_scores, y_scores
