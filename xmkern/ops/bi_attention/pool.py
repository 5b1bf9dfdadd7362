"""The operators of additive pooling: schemas, fakes, backends, and the gradient."""

from typing import Any

import torch
from torch import Tensor

from xmkern.ops.bi_attention import cpu, reference
from xmkern.ops.dtype import wide_dtype
from xmkern.ops.gradient import dispatched, distinct, entrance, graded, run, run_backward, unbound
from xmkern.ops.registry import Backend, Op


def _fake(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], x.shape[2]), x.new_empty(x.shape[:2], dtype=wide_dtype(x.dtype))


def _fake_backward(
    grad_pooled: Tensor, grad_shares: Tensor, x: Tensor, hidden: Tensor, guide: Tensor | None, weight: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_guide = hidden.new_empty(guide.shape if guide is not None and guide.shape[1] == 1 else 0)
    return x.new_empty(x.shape), hidden.new_empty(hidden.shape), grad_guide, weight.new_empty(weight.shape)


def _sample() -> tuple[Any, ...]:
    x, hidden, guide, weight = (torch.randn(shape) for shape in ((3, 9, 20), (3, 9, 33), (3, 1, 33), (33,)))
    return x, hidden, guide, weight, torch.rand(3, 9) < 0.8


def _sample_backward() -> tuple[Any, ...]:
    args = _sample()
    pooled, shares = reference.additive_pool(*args)
    return torch.randn_like(pooled), torch.randn_like(shares), *args, shares


additive_pool_forward = Op(
    "additive_pool(Tensor x, Tensor hidden, Tensor? guide, Tensor weight, Tensor? mask) -> (Tensor, Tensor)",
    backends=[
        Backend("cpu", cpu.additive_pool, cpu.refuses_pool),
        Backend("reference", reference.additive_pool),
    ],
    fake=_fake,
    sample=_sample,
)

additive_pool_backward = Op(
    "additive_pool_backward(Tensor grad_pooled, Tensor grad_shares, Tensor x, Tensor hidden, Tensor? guide, "
    "Tensor weight, Tensor? mask, Tensor shares) -> (Tensor, Tensor, Tensor, Tensor)",
    backends=[
        Backend("cpu", cpu.additive_pool_backward, lambda *args: cpu.refuses_pool(*args[2:])),
        Backend("reference", reference.additive_pool_backward),
    ],
    fake=_fake_backward,
    sample=_sample_backward,
)


class _Pool(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return run(additive_pool_forward, *args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.backend = inputs[5]
        ctx.dispatched = dispatched(inputs[0])
        ctx.save_for_backward(*inputs[:5], output[1])

    @staticmethod
    def backward(ctx: Any, grad_pooled: Tensor, grad_shares: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # read once: checkpointing makes them anew, and for one reading
        args = (grad_pooled, grad_shares, *saved, ctx.backend)
        grad_x, grad_hidden, grad_guide, grad_weight = run_backward(
            additive_pool_backward, *args, dispatched=ctx.dispatched, what="additive pooling"
        )
        guide = saved[2]
        if guide is None:
            grad_guide = None
        elif guide.shape[1] != 1:
            grad_guide = grad_hidden
        return grad_x, grad_hidden, grad_guide, grad_weight, None, None


_apply = unbound(_Pool)


def additive_pool(
    x: Tensor,
    hidden: Tensor,
    guide: Tensor | None,
    weight: Tensor,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The rows of x pooled by softmax(tanh(hidden + guide) weight), with its gradient -> pooled [B, D], shares [B, N].

    Args:
        x: [B, N, D].
        hidden: [B, N, K].
        guide: [B, N, K], or [B, 1, K]: one for all rows; or None.
        weight: [K].
        mask: bool [B, N], True where there is a row.
        backend: as in ``xmkern.functional``.
    """
    if graded(x, hidden, guide, weight):
        return entrance(_Pool, _apply)(*distinct(x, hidden, guide, weight, mask), backend)
    return run(additive_pool_forward, x, hidden, guide, weight, mask, backend)
