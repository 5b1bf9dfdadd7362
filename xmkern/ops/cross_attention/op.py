"""The operators of cross-attention: schemas, fakes, backends, batching, and the gradient.

A call holds several problems, each some queries with one or more sources of keys and values; problem.py says how they
lie in the arguments. Results come in one list: those of all queries, then those of all sources.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from xmkern.ops.attention.layout import empty_like_query
from xmkern.ops.cross_attention import cpu, reference, triton
from xmkern.ops.cross_attention.problem import Source
from xmkern.ops.dtype import wide_dtype
from xmkern.ops.gradient import dispatched, distinct, entrance, graded, is_differentiated, once, unbound
from xmkern.ops.registry import PLAIN, Backend, Op


def _backends(name: str, refuses: Callable[[Any], Callable[..., str | None]]) -> list[Backend]:
    fast = [Backend(kind, getattr(own, name), refuses(own)) for kind, own in {"cpu": cpu, "triton": triton}.items()]
    return [*fast, Backend("reference", getattr(reference, name))]


def _fake(queries: list[Tensor], keys: list[Tensor], values: list[Tensor], counts: list[int], *rest: Any) -> Any:
    firsts = [sum(counts[:i]) for i in range(len(counts))]
    outs = [empty_like_query(query, values[at].shape[3]) for query, at in zip(queries, firsts, strict=True)]
    return [*outs, *(query.new_empty(query.shape[:3], dtype=wide_dtype(query.dtype)) for query in queries)]


def _fake_backward(
    grad_outs: list[Tensor],
    grad_lses: list[Tensor | None],
    queries: list[Tensor],
    keys: list[Tensor],
    values: list[Tensor],
    *rest: Any,
) -> list[Tensor]:
    _, lses, _, _, _, biases, *_, bias_grads = rest
    grads = [empty_like_query(x, x.shape[3]) for x in (*queries, *keys, *values)]
    for bias, wanted in zip(biases, bias_grads, strict=True):
        grads.append(lses[0].new_empty(bias.shape if bias is not None and wanted else (0,)))
    return grads


def _sample() -> tuple[Any, ...]:
    queries = [torch.randn(2, 4, 70, 16), torch.randn(2, 4, 30, 16)]
    sizes = [90, 20, 70]
    keys, values = ([torch.randn(2, 2, n, width) for n in sizes] for width in (16, 24))
    masks = [2, 1, 3, 0, 0, 0, 3, 0, 2, -(2**62), 40]  # key lengths, nothing, a band
    return (
        queries, keys, values, [2, 1], masks, [torch.tensor([90, 33])], [None, torch.randn(1, 4, 70, 1), None],
        [None, None, None], [0.25, 0.3], 0.0, None,
    )  # fmt: skip


def _sample_backward() -> tuple[Any, ...]:
    args = _sample()
    outs = reference.cross_attention(*args)
    outs, lses = outs[:2], outs[2:]
    grads = [torch.randn_like(x) for x in outs], [torch.randn_like(lses[0]), None]
    return *grads, *args[:3], outs, lses, *args[3:], [False, True, False]


_ARGUMENTS = (
    "int[] counts, SymInt[] masks, Tensor[] mask_tensors, Tensor?[] biases, Tensor?[] buckets, float[] scales, "
    "float dropout_p, Tensor? seeds"
)

cross_attention_forward = Op(
    f"cross_attention(Tensor[] queries, Tensor[] keys, Tensor[] values, {_ARGUMENTS}) -> Tensor[]",
    backends=_backends("cross_attention", lambda own: own.refuses),
    fake=_fake,
    sample=_sample,
    at_once=cpu.cross_attention_at_once,
)

cross_attention_backward = Op(
    "cross_attention_backward(Tensor[] grad_outs, Tensor?[] grad_lses, Tensor[] queries, Tensor[] keys, "
    f"Tensor[] values, Tensor[] outs, Tensor[] lses, {_ARGUMENTS}, bool[] bias_grads) -> Tensor[]",
    backends=_backends("cross_attention_backward", lambda own: lambda *args: own.refuses(*args[2:5], args[7])),
    fake=_fake_backward,
    sample=_sample_backward,
    at_once=cpu.cross_attention_backward_at_once,
)


def _unflatten(counts: tuple[int, ...], tensors: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """-> queries, keys, values, biases, buckets, seeds, mask tensors"""
    found, at, sources = [], 0, sum(counts)
    for size in (len(counts), sources, sources, sources, sources):
        found.append(tuple(tensors[at : at + size]))
        at += size
    return *found, tensors[at], tuple(tensors[at + 1 :])


def _arguments(options: tuple[Any, ...], tensors: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """Of the operator, but for the backend."""
    counts, masks, scales, dropout_p = options
    *operands, biases, buckets, seeds, mask_tensors = _unflatten(counts, tensors)
    return *operands, counts, masks, mask_tensors, biases, buckets, scales, dropout_p, seeds


def _backward_arguments(
    options: tuple[Any, ...], bias_grads: tuple[bool, ...], tensors: Sequence[Tensor | None]
) -> tuple[Any, ...]:
    """tensors: the gradients of outs and of lses, outs, lses, and the forward's."""
    n = len(options[0])
    grad_outs, grad_lses, outs, lses = (tuple(tensors[i * n : i * n + n]) for i in range(4))
    args = _arguments(options, tensors[4 * n :])
    return grad_outs, grad_lses, *args[:3], outs, lses, *args[3:], bias_grads


class _CrossAttention(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(options: tuple[Any, ...], backend: str, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(_run(cross_attention_forward, _arguments(options, tensors), tensors, backend))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options, ctx.backend, *tensors = inputs
        ctx.dispatched = dispatched(output[0])
        ctx.save_for_backward(*output, *tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        options, backend, tensors = ctx.options, ctx.backend, ctx.saved_tensors
        n, sources = len(options[0]), sum(options[0])
        if all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        grad_outs = (
            torch.zeros_like(out) if grad is None else grad for grad, out in zip(grads, tensors[:n], strict=False)
        )
        tensors = (*grad_outs, *grads[n:], *tensors)
        at = 2 + n + 2 * sources
        bias_grads = ctx.needs_input_grad[at : at + sources]

        again = is_differentiated()

        def backward(*tensors: Tensor | None) -> tuple[Tensor, ...]:
            args = _backward_arguments(options, bias_grads, tensors)
            return tuple(_run(cross_attention_backward, args, tensors, backend, again or ctx.dispatched))

        # Not run_backward: autograd does not see tensors within lists.
        found = once("cross-attention", backward, *tensors) if again else backward(*tensors)
        wanted = [grad if need else None for grad, need in zip(found, ctx.needs_input_grad[2:], strict=False)]
        return None, None, *wanted, *(None,) * (len(ctx.needs_input_grad) - 2 - len(wanted))


_apply = unbound(_CrossAttention)


def _run(
    op: Op, args: tuple[Any, ...], tensors: Sequence[Tensor | None], backend: str, dispatched: bool = False
) -> Any:
    # The dispatcher sees what an operator's own look at its arguments does not: tensors within lists.
    if dispatched or not PLAIN.issuperset(map(type, tensors)) or args[0][0].is_meta:
        return op.overload(*args, backend)
    return op(*args, backend=backend)


def cross_attention(
    queries: Sequence[Tensor],
    sources: Sequence[Sequence[Source]],
    scales: tuple[float, ...],
    dropout_p: float = 0.0,
    seeds: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, ...]:
    """The operator with its gradient -> out [B, H, L, Dv] of each query, then lse [B, H, L] of each."""
    every = [source for each in sources for source in each]
    keys, values, _, _, biases, buckets = zip(*every, strict=True)
    masks = tuple(n for s in every for n in (len(s.mask), len(s.mask_tensors), *s.mask))
    mask_tensors = tuple(tensor for source in every for tensor in source.mask_tensors)
    counts, queries = tuple(map(len, sources)), tuple(queries)
    tensors = (*queries, *keys, *values, *biases, *buckets, seeds, *mask_tensors)
    if graded(*queries, *keys, *values, *biases):
        options = (counts, masks, scales, dropout_p)
        return entrance(_CrossAttention, _apply)(options, backend, *distinct(*tensors))
    args = (queries, keys, values, counts, masks, mask_tensors, biases, buckets, scales, dropout_p, seeds)
    return tuple(_run(cross_attention_forward, args, tensors, backend))
