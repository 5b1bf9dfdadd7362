"""The operators of attention: schemas, fakes, backends, batching, and the gradient."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from xmkern.ops.attention import cpu, reference, triton
from xmkern.ops.attention.batching import fold_backward, fold_forward
from xmkern.ops.attention.layout import empty_like_query
from xmkern.ops.registry import Backend, Op, distinct


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


def lse_dtype(query: Tensor) -> torch.dtype:
    return torch.float64 if query.dtype == torch.float64 else torch.float32


def _fake_attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return empty_like_query(query, value.shape[3]), query.new_empty(query.shape[:3], dtype=lse_dtype(query))


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
)

attention_backward = Op(
    "attention_backward(Tensor grad_out, Tensor? grad_lse, Tensor query, Tensor key, Tensor value, Tensor out, "
    "Tensor lse, SymInt[] mask, Tensor[] mask_tensors, Tensor? bias, Tensor? buckets, float scale, float dropout_p, "
    "Tensor? seed, bool bias_grad) -> (Tensor, Tensor, Tensor, Tensor)",
    backends=_backends("attention_backward", _refuses_backward),
    fake=_fake_backward,
    sample=_sample_backward,
    fold=fold_backward,
)


class _Gradient(torch.autograd.Function):
    """The backward, with none of its own, where a graph of it is asked for.

    ``once_differentiable`` would not do: it sees what the gradient of the output depends on, and not that the gradients
    depend on query, key, value and bias, so that a penalty on them would be differentiated to zero in silence.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return attention_backward.overload(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise NotImplementedError(
            "attention has a first derivative only, and here its gradient is differentiated (create_graph=True, or a "
            "transform of a transform)"
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
        return _forward(query, key, value, mask, mask_tensors, bias, buckets, scale, dropout_p, seed, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        query, key, value, bias, buckets, seed, *ctx.options = inputs[:10]
        ctx.dispatched = query.is_meta or torch._C._are_functorch_transforms_active()
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
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # torch.compile refuses this by itself
            grads = _Gradient.apply(*args, backend)
        elif ctx.dispatched:  # what a transform has wrapped, as in the function of torch.func.vjp, outlives it
            grads = attention_backward.overload(*args, backend)
        else:
            grads = attention_backward(*args, backend=backend)
        grad_query, grad_key, grad_value, grad_bias = grads
        return grad_query, grad_key, grad_value, grad_bias if bias_grad else None, *(None,) * (6 + len(mask_tensors))


# What _Attention.apply comes to when it has bound the arguments to the signature of forward, which takes longer than a
# small kernel.
_apply = super(torch.autograd.Function, _Attention).apply


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
    graded = torch.is_grad_enabled() and (
        query.requires_grad or key.requires_grad or value.requires_grad or (bias is not None and bias.requires_grad)
    )
    # Under torch.func a tensor may hide behind a wrapper that it requires a gradient.
    transformed = torch._C._are_functorch_transforms_active()
    if graded or transformed:
        apply = _Attention.apply if transformed or torch.compiler.is_compiling() else _apply
        operands = distinct(query, key, value, bias, buckets, seed)
        return apply(*operands, mask, scale, dropout_p, backend, *distinct(*mask_tensors))
    return _forward(query, key, value, mask, mask_tensors, bias, buckets, scale, dropout_p, seed, backend)


def _forward(query: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    if query.is_meta:  # there is nothing to compute: the dispatcher knows the fake
        return attention_forward.overload(query, *args)
    return attention_forward(query, *args[:-1], backend=args[-1])
