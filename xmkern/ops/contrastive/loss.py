"""A loss and its gradients in one go: the operator, and how autograd sees it.

Backward, :func:`reduce_similarities` has to compute the logits again, a quarter of all products. Where the slopes of a
loss need nothing but the logits themselves (softplus), or the matrix is so small that a tile of the kernel holds it, a
training step does without: the gradients are made in the forward, in the place of the arguments that would be kept.
"""

from typing import Any, NoReturn

import torch
from torch import Tensor

from xmkern.ops.contrastive import cpu, reference
from xmkern.ops.contrastive.op import Pairs, fake_gradients
from xmkern.ops.registry import Backend, Op


def _reference(*args: Any) -> tuple[Tensor, ...]:
    """-> the loss [], and its gradients with respect to x, y, x_scale, y_scale and bias; of x and y no elements where
    they are not wanted.

    With ``"softplus"`` the loss is the sum of the rows' values; with ``"logsumexp"`` the sum, over the rows that have
    positives, and the columns if there are any, of log-sum-exp less the mean of the positives.
    """
    *tensors, kind, columns, x_grad, y_grad = args
    operands: Any = [*tensors, None, None]  # no offsets
    forward: Any = reference.similarity_reduce
    results = forward(*operands, kind, columns)
    loss, grads = results[0].new_zeros(()), []
    for value, positive, count in (results[:3], results[3:]):
        if kind == "softplus":
            push, pull = torch.ones_like(value), torch.zeros_like(value)
            loss = loss + value.sum()
        else:
            push, pull = (count > 0).to(value), -(count > 0).to(value) / count.clamp(min=1)
            loss = loss + torch.where(count > 0, value + pull * positive, 0).sum()
        grads += [push, pull]
    statistics = (results[0], results[1], results[3], results[4])
    backward: Any = reference.similarity_reduce_backward
    return loss, *backward(*grads, *operands, *statistics, kind, columns, x_grad, y_grad)


def _fake(*args: Any) -> tuple[Tensor, ...]:
    return args[2].new_empty(()), *fake_gradients(args[:5], *args[-2:])


def _sample() -> tuple[Any, ...]:
    x, y, scales = torch.randn(20, 24), torch.randn(30, 24), torch.rand(50)
    ids = torch.arange(50) % 20
    return (
        x,
        y,
        scales[:20],
        scales[20:],
        torch.tensor(-0.5),
        ids[:20],
        ids[20:],
        None,
        None,
        None,
        "softplus",
        False,
        True,
        True,
    )


similarity_loss = Op(
    "similarity_loss(Tensor x, Tensor y, Tensor x_scale, Tensor y_scale, Tensor bias, Tensor? x_ids, Tensor? y_ids, "
    "Tensor? x_groups, Tensor? y_groups, Tensor? relevance, str kind, bool columns, bool x_grad, "
    "bool y_grad) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    backends=[Backend("cpu", cpu.similarity_loss, cpu.refuses_loss), Backend("reference", _reference)],
    fake=_fake,
    sample=_sample,
)


class _Gradient(torch.autograd.Function):
    """The gradients, which depend on the arguments, with no derivative of their own: see attention's."""

    @staticmethod
    def forward(ctx: Any, *args: Tensor) -> tuple[Tensor, ...]:
        return tuple(grad.clone() for grad in args[5:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise NotImplementedError(
            "contrastive losses have a first derivative only, and here their gradient is differentiated "
            "(create_graph=True, or a transform of a transform)"
        )


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        loss, *grads = similarity_loss(*args[:-1], *ctx.needs_input_grad[:2], backend=args[-1])
        ctx.save_for_backward(*args[:5], *grads)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        grads = _Gradient.apply(*saved) if torch.is_grad_enabled() else saved[5:]
        wanted = ctx.needs_input_grad[:5]
        return *(each * grad if want else None for each, want in zip(grads, wanted, strict=True)), *(None,) * 8


def loss_of_similarities(
    x: Tensor,
    y: Tensor,
    x_scale: Tensor,
    y_scale: Tensor,
    bias: Tensor,
    pairs: Pairs,
    *,
    kind: str,
    columns: bool,
    backend: str,
) -> Tensor | None:
    """The sum of the losses of rows, and columns, with gradients for x, y, the scales and bias.

    None where another way is as good: a gradient isn't wanted, or a transform, a compiler or another backend has to see
    the parts.
    """
    operands = (x, y, x_scale, y_scale, bias)
    if not torch.is_grad_enabled() or not any(operand.requires_grad for operand in operands):
        return None
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or backend not in ("auto", "cpu"):
        return None
    args = (*operands, *pairs[:5], kind, columns)
    if cpu.refuses_loss(*args) is not None:
        return None
    return _Loss.apply(*args, "cpu")
