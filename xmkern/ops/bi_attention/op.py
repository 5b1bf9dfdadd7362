"""The operators of attention both ways: schemas, fakes, backends, and the gradient."""

from typing import Any

import torch
from torch import Tensor

from xmkern.ops.attention.layout import empty_like_query
from xmkern.ops.bi_attention import cpu, reference, triton
from xmkern.ops.dtype import wide_dtype
from xmkern.ops.gradient import dispatched, distinct, entrance, graded, run, run_backward, unbound
from xmkern.ops.registry import Backend, Op


def _fake(
    a: Tensor, b: Tensor, v_a: Tensor, v_b: Tensor, mask_a: Any, mask_b: Any, scale: float, tanh: bool, softmax: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lses = (a.new_empty(x.shape[:3] if softmax else 0, dtype=wide_dtype(a.dtype)) for x in (a, b))
    return empty_like_query(a, v_b.shape[3]), empty_like_query(b, v_a.shape[3]), *lses  # type: ignore[return-value]


def _fake_backward(grad_out_a: Tensor, grad_out_b: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return tuple(empty_like_query(x, x.shape[3]) for x in args[:4])


def _sample() -> tuple[Any, ...]:
    a, b, v_a, v_b = (torch.randn(2, 3, n, d) for n, d in ((40, 16), (9, 16), (40, 24), (9, 20)))
    return a, b, v_a, v_b, torch.rand(2, 40) < 0.8, torch.rand(2, 9) < 0.8, 0.25, False, True


def _sample_backward() -> tuple[Any, ...]:
    args = _sample()
    out_a, out_b, lse_a, lse_b = reference.bi_attention(*args)
    return torch.randn_like(out_a), torch.randn_like(out_b), *args[:6], out_a, out_b, lse_a, lse_b, *args[6:]


bi_attention_forward = Op(
    "bi_attention(Tensor a, Tensor b, Tensor v_a, Tensor v_b, Tensor? mask_a, Tensor? mask_b, float scale, bool tanh, "
    "bool softmax) -> (Tensor, Tensor, Tensor, Tensor)",
    backends=[
        Backend("cpu", cpu.bi_attention, cpu.refuses),
        Backend("triton", triton.bi_attention, triton.refuses),
        Backend("reference", reference.bi_attention),
    ],
    fake=_fake,
    sample=_sample,
)

bi_attention_backward = Op(
    "bi_attention_backward(Tensor grad_out_a, Tensor grad_out_b, Tensor a, Tensor b, Tensor v_a, Tensor v_b, "
    "Tensor? mask_a, Tensor? mask_b, Tensor out_a, Tensor out_b, Tensor lse_a, Tensor lse_b, float scale, bool tanh, "
    "bool softmax) -> (Tensor, Tensor, Tensor, Tensor)",
    backends=[
        Backend("cpu", cpu.bi_attention_backward, lambda *args: cpu.refuses(*args[2:])),
        Backend("triton", triton.bi_attention_backward, lambda *args: triton.refuses(*args[2:])),
        Backend("reference", reference.bi_attention_backward),
    ],
    fake=_fake_backward,
    sample=_sample_backward,
)


class _BiAttention(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return run(bi_attention_forward, *args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options = inputs[6:]
        ctx.dispatched = dispatched(inputs[0])
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*inputs[:6], *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, options = ctx.saved_tensors, ctx.options
        if grads[0] is None and grads[1] is None:
            return (None,) * 10
        given = (torch.zeros_like(out) if grad is None else grad for grad, out in zip(grads, saved[6:8], strict=False))
        args = (*given, *saved, *options[:3])
        found = run_backward(bi_attention_backward, *args, options[3], dispatched=ctx.dispatched)
        return *found, *(None,) * 6


_apply = unbound(_BiAttention)


def bi_attention(
    a: Tensor,
    b: Tensor,
    v_a: Tensor,
    v_b: Tensor,
    mask_a: Tensor | None = None,
    mask_b: Tensor | None = None,
    scale: float = 1.0,
    tanh: bool = False,
    softmax: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The operator with its gradient -> out_a [B, H, L, Db], out_b [B, H, S, Da].

    Kept for the backward: the arguments, the results, and a number of each row of a and b.
    """
    options = (scale, tanh, softmax, backend)
    if graded(a, b, v_a, v_b):
        out_a, out_b, *_ = entrance(_BiAttention, _apply)(*distinct(a, b, v_a, v_b, mask_a, mask_b), *options)
    else:
        out_a, out_b, *_ = run(bi_attention_forward, a, b, v_a, v_b, mask_a, mask_b, *options)
    return out_a, out_b
