"""The operators of attention: schemas, fakes, backends, batching, and the gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xmkern.ops.attention import cpu, reference, triton
from xmkern.ops.attention.batching import fold_backward, fold_forward
from xmkern.ops.attention.layout import empty_like_query
from xmkern.ops.dtype import wide_dtype
from xmkern.ops.gradient import dispatched, distinct, entrance, graded, run, run_backward, unbound
from xmkern.ops.registry import Backend, Op


def _backends(name: str, refuses: Callable[[Any], Callable[..., str | None]]) -> list[Backend]:
    """The launchers that have a function of this name, and the reference."""
    fast = [
        Backend(kind, getattr(own, name), refuses(own))
        for kind, own in {"cpu": cpu, "triton": triton}.items()
        if hasattr(own, name)
    ]
    return [*fast, Backend("reference", getattr(reference, name))]


def _refuses_backward(own: Any) -> Callable[..., str | None]:
    """A launcher's ``refuses`` takes the forward's arguments."""
    return lambda *args: own.refuses(*args[2:5], *args[7:14])


def _fake_attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return empty_like_query(query, value.shape[3]), query.new_empty(query.shape[:3], dtype=wide_dtype(query.dtype))


def _fake_backward(
    grad_out: Tensor, grad_lse: Tensor | None, query: Tensor, key: Tensor, value: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, lse, _, _, bias, *_, bias_grad = rest
    grad_bias = lse.new_empty(bias.shape if bias is not None and bias_grad else (0,))
    grads = (empty_like_query(x, x.shape[3]) for x in (query, key, value))
    return (*grads, grad_bias)


def _sample() -> tuple[Any, ...]:
    query, key, value = torch.randn(2, 4, 70, 16), torch.randn(2, 2, 90, 16), torch.randn(2, 2, 90, 24)
    lengths = torch.tensor([90, 33])
    mask = [3, 0, 2, -(2**62), 20, 0]  # key lengths AND band
    return query, key, value, mask, [lengths], torch.randn(1, 4, 159), None, 0.25, 0.0, None


def _sample_backward() -> tuple[Any, ...]:
    args = _sample()
    out, lse = reference.attention(*args)
    return torch.randn_like(out), torch.randn_like(lse), *args[:3], out, lse, *args[3:], True


attention_forward = Op(
    "attention(Tensor query, Tensor key, Tensor value, SymInt[] mask, Tensor[] mask_tensors, Tensor? bias, "
    "Tensor? buckets, float scale, float dropout_p, Tensor? seed) -> (Tensor, Tensor)",
    backends=_backends("attention", lambda own: own.refuses),
    fake=_fake_attention,
    sample=_sample,
    fold=fold_forward,
    at_once=cpu.attention_at_once,
)

attention_backward = Op(
    "attention_backward(Tensor grad_out, Tensor? grad_lse, Tensor query, Tensor key, Tensor value, Tensor out, "
    "Tensor lse, SymInt[] mask, Tensor[] mask_tensors, Tensor? bias, Tensor? buckets, float scale, float dropout_p, "
    "Tensor? seed, bool bias_grad) -> (Tensor, Tensor, Tensor, Tensor)",
    backends=_backends("attention_backward", _refuses_backward),
    fake=_fake_backward,
    sample=_sample_backward,
    fold=fold_backward,
    at_once=cpu.attention_backward_at_once,
)


class _Attention(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        buckets: Tensor | None,
        seed: Tensor | None,
        mask: tuple[int, ...],
        scale: float,
        dropout_p: float,
        backend: str,
        *mask_tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        options = (scale, dropout_p, seed, backend)
        return run(attention_forward, query, key, value, mask, mask_tensors, bias, buckets, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        query, key, value, bias, buckets, seed, *ctx.options = inputs[:10]
        ctx.dispatched = dispatched(query)
        ctx.save_for_backward(query, key, value, bias, buckets, seed, *output, *inputs[10:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        query, key, value, bias, buckets, seed, out, lse, *rest = ctx.saved_tensors
        mask_tensors = tuple(rest)
        mask, scale, dropout_p, backend = ctx.options
        bias_grad = ctx.needs_input_grad[3]
        if grad_out is None:
            if grad_lse is None:
                return (None,) * (10 + len(mask_tensors))
            grad_out = torch.zeros_like(out)
        args = (
            grad_out, grad_lse, query, key, value, out, lse, mask, mask_tensors, bias, buckets, scale, dropout_p, seed,
            bias_grad,
        )  # fmt: skip
        grads = run_backward(attention_backward, *args, backend, dispatched=ctx.dispatched)
        grad_query, grad_key, grad_value, grad_bias = grads
        return grad_query, grad_key, grad_value, grad_bias if bias_grad else None, *(None,) * (6 + len(mask_tensors))


_apply = unbound(_Attention)


def attention_at_once(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: tuple[int, ...],
    mask_tensors: tuple[Tensor, ...],
    scale: float | None,
    keep_lse: bool,
) -> tuple[Tensor, Tensor] | None:
    """The operator without bias and dropout, as the extension serves it past all checks, with its gradient; or None.
    Without ``keep_lse``, lse may be None."""
    args = query, key, value, mask, mask_tensors, None, None, scale, 0.0, None
    made: tuple[Tensor, Tensor] | None = attention_forward.at_once(*args, keep_lse)
    if made is True:
        if scale is None:
            scale = query.shape[3] ** -0.5
        made = _apply(query, key, value, None, None, None, mask, scale, 0.0, "auto", *mask_tensors)
    return made


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: tuple[int, ...] = (),
    mask_tensors: tuple[Tensor, ...] = (),
    bias: Tensor | None = None,
    buckets: Tensor | None = None,
    scale: float = 1.0,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The operator with its gradient -> out [B, H, L, Dv], lse [B, H, L]."""
    if graded(query, key, value, bias):
        operands = distinct(query, key, value, bias, buckets, seed)
        apply = entrance(_Attention, _apply)
        return apply(*operands, mask, scale, dropout_p, backend, *distinct(*mask_tensors))
    options = (scale, dropout_p, seed, backend)
    return run(attention_forward, query, key, value, mask, mask_tensors, bias, buckets, *options)
