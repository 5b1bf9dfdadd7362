"""A loss and its gradients in one go: the operator, and how autograd sees it.

Backward, :func:`reduce_similarities` has to compute the logits again, a quarter of all products. Where the slopes of a
loss need nothing but the logits themselves (softplus), or the matrix is so small that it can be kept, a training step
does without: the gradients are made in the forward.
"""

from typing import Any

import torch
from torch import Tensor

from xmkern.ops.contrastive import cpu, reference
from xmkern.ops.contrastive.op import WHAT, Pairs, fake_gradients
from xmkern.ops.gradient import once, unbound
from xmkern.ops.registry import Backend, Op


def _reference(*args: Any) -> tuple[Tensor, ...]:
    """-> the loss [], and its gradients with respect to x, y, x_scale, y_scale and bias; of x and y no elements where
    they are not wanted.

    The loss is ``weight`` times the sum over the rows, and the columns if there are any: with ``"softplus"`` of their
    values, with ``"logsumexp"`` of log-sum-exp less the mean of the positives, of those that have some.
    """
    *tensors, kind, columns, weight, x_grad, y_grad = args
    operands: Any = [*tensors, None, None]  # no offsets
    forward: Any = reference.similarity_reduce
    results = forward(*operands, kind, columns)
    loss, grads = results[0].new_zeros(()), []
    for value, positive, count in (results[:3], results[3:]):
        if kind == "softplus":
            push, pull = torch.full_like(value, weight), torch.zeros_like(value)
            loss = loss + weight * value.sum()
        else:
            push = weight * (count > 0).to(value)
            pull = -push / count.clamp(min=1)
            loss = loss + torch.where(count > 0, push * value + pull * positive, 0).sum()
        grads += [push, pull]
    statistics = (results[0], results[1], results[3], results[4])
    backward: Any = reference.similarity_reduce_backward
    return loss, *backward(*grads, *operands, *statistics, kind, columns, x_grad, y_grad)


def _fake(*args: Any) -> tuple[Tensor, ...]:
    return args[2].new_empty(()), *fake_gradients(args[:5], *args[-2:])


def _sample() -> tuple[Any, ...]:
    x, y, scales = torch.randn(20, 24), torch.randn(30, 24), torch.rand(50)
    ids = torch.arange(50) % 20
    pairs = (ids[:20], ids[20:], None, None, None)
    return x, y, scales[:20], scales[20:], torch.tensor(-0.5), *pairs, "softplus", False, 0.1, True, True


similarity_loss = Op(
    "similarity_loss(Tensor x, Tensor y, Tensor x_scale, Tensor y_scale, Tensor bias, Tensor? x_ids, Tensor? y_ids, "
    "Tensor? x_groups, Tensor? y_groups, Tensor? relevance, str kind, bool columns, float weight, "
    "bool x_grad, bool y_grad) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    backends=[Backend("cpu", cpu.similarity_loss, cpu.refuses_loss), Backend("reference", _reference)],
    fake=_fake,
    sample=_sample,
)


def _gradients(*saved: Tensor) -> tuple[Tensor, ...]:
    """The gradients, which depend on the arguments that they are saved with."""
    return tuple(grad.clone() for grad in saved[5:])


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        loss, *grads = similarity_loss(*args[:-1], *ctx.needs_input_grad[:2], backend=args[-1])
        ctx.save_for_backward(*args[:5], *grads)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        grads = list(saved[5:])
        if torch.is_grad_enabled():
            grads = [each * grad for each in once(WHAT, _gradients, *saved)]
        elif _graph_is_kept() or torch._C._are_functorch_transforms_active():
            grads = [each * grad for each in grads]
        elif float(grad) != 1:
            grads = [each.mul_(grad) for each in grads]  # nobody will see them again
        wanted = ctx.needs_input_grad
        return *[each if want else None for each, want in zip(grads, wanted, strict=False)], *(None,) * 9


_graph_is_kept = torch._C._autograd._get_current_graph_task_keep_graph

_apply = unbound(_Loss)

# Modes under which tensors are fake or traced, so that no number can be had of the gradient; others only watch.
_keys = torch._C._TorchDispatchModeKey
_TRACERS = (_keys.FAKE, _keys.PROXY, _keys.FUNCTIONAL)


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
    weight: float,
    backend: str,
) -> Tensor | None:
    """``weight`` times the sum of the losses of rows, and columns, with gradients for x, y, the scales and bias.

    None where another way is as good: a gradient isn't wanted, or a transform, a compiler, a tracer or another
    backend has to see the parts.
    """
    operands = (x, y, x_scale, y_scale, bias)
    if not torch.is_grad_enabled() or not any(operand.requires_grad for operand in operands):
        return None
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or backend not in ("auto", "cpu"):
        return None
    if torch._C._len_torch_dispatch_stack() and any(map(torch._C._get_dispatch_mode, _TRACERS)):
        return None
    args = (*operands, *pairs[:5], kind, columns, weight)
    if cpu.refuses_loss(*args) is not None:
        return None
    return _apply(*args, "cpu")
