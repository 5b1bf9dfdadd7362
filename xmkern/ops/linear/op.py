"""The operators of a linear layer: schemas, fakes, backends, and the gradients."""

from typing import Any

import torch
from torch import Tensor

from xmkern.ops.gradient import dispatched, distinct, entrance, graded, is_differentiated, run, run_backward, unbound
from xmkern.ops.linear import cpu, onednn, reference
from xmkern.ops.registry import Backend, Op, past_checks


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _fake_backward(grad: Tensor, x: Tensor, weight: Tensor, *wanted: bool) -> tuple[Tensor, ...]:
    shapes = x.shape, weight.shape, weight.shape[:1]
    return tuple(grad.new_empty(shape if each else 0) for shape, each in zip(shapes, wanted, strict=True))


def _sample() -> tuple[Any, ...]:
    return torch.randn(3, 7, 20), torch.randn(40, 20), torch.randn(40)


linear_forward = Op(
    "linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    backends=[
        Backend("onednn", onednn.linear, onednn.refuses),
        Backend("cpu", cpu.linear, cpu.refuses),
        Backend("reference", reference.linear),
    ],
    fake=_fake,
    sample=_sample,
    at_once=cpu.linear_at_once,
)
linear_backward = Op(
    "linear_backward(Tensor grad, Tensor x, Tensor weight, bool of_x, bool of_weight, bool of_bias) "
    "-> (Tensor, Tensor, Tensor)",
    backends=[
        Backend("onednn", reference.linear_backward, onednn.refuses),  # torch asks it by itself
        Backend("cpu", cpu.linear_backward, cpu.refuses),
        Backend("reference", reference.linear_backward),
    ],
    fake=_fake_backward,
    sample=lambda: (torch.randn(3, 7, 40), *_sample()[:2], True, True, True),
)


class _Linear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return run(linear_forward, *args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, ctx.backend = inputs
        ctx.biased, ctx.dispatched = bias is not None, dispatched(x)
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = *ctx.needs_input_grad[:2], ctx.biased and ctx.needs_input_grad[2]
        if is_differentiated():  # what torch computes, torch can differentiate
            grads = reference.linear_backward(grad, x, weight, *wanted)
        else:
            grads = run_backward(linear_backward, grad, x, weight, *wanted, ctx.backend, dispatched=ctx.dispatched)
        return *(each if asked else None for each, asked in zip(grads, wanted, strict=True)), None


_linear = unbound(_Linear)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    """The operator with its gradient."""
    if graded(x, weight, bias):
        return entrance(_Linear, _linear)(*distinct(x, weight, bias), backend)
    return run(linear_forward, x, weight, bias, backend)


# Whether x, weight and bias are as they should be and mostly are, on the CPU.
ordinary = past_checks(cpu.fit)
