"""Launches the C++ kernels: makes the memory, passes addresses and strides."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xmkern import native
from xmkern.ops.attention.layout import empty_like_query, strides_of
from xmkern.ops.dropout import is_elsewhere, native_dropout
from xmkern.ops.fresh import fresh

MAX_DEPTH = 256
_NO_BIAS: tuple[tuple[int, ...], object] = ((0, 0, 0, 0, 0, 0), None)
_NO_DROPOUT = (0, 0, 1.0)


def refuses(query: Tensor, key: Tensor, value: Tensor, *args: object) -> str | None:
    if not query.is_cpu:
        return f"the tensors are on {query.device}"
    if query.dtype not in native.DTYPES:
        return f"the kernels take float32, bfloat16 and float16, not {query.dtype}"
    if query.size(3) > MAX_DEPTH or value.size(3) > MAX_DEPTH:
        return f"the kernels take heads of up to {MAX_DEPTH} numbers, not {max(query.shape[3], value.shape[3])}"
    return native.why_missing()


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: list[int],
    mask_tensors: list[Tensor],
    bias: Tensor | None,
    buckets: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    batches, heads, queries, _ = query.shape
    out = fresh(empty_like_query(query, value.size(3)))
    lse = torch.empty(batches, heads, queries, dtype=torch.float32, device="cpu")
    call, kept = _call(query, key, value, out, lse, mask, mask_tensors, bias, buckets, scale, dropout_p, seed)
    native.module().attention.forward((call,), torch.get_num_threads())
    del kept
    return out, lse


def attention_at_once(
    query: Tensor, key: Tensor, value: Tensor, mask: Any, mask_tensors: Any, bias: Tensor | None, buckets: Any,
    scale: float | None, dropout_p: float, seed: Tensor | None, keep_lse: bool = True,
) -> Any:  # fmt: skip
    """The arguments of :func:`attention`; a scale of None is the usual one."""
    if buckets is not None or is_elsewhere(seed):
        return None
    return native.module().attention.forward_at_once(
        query, key, value, mask, mask_tensors, bias, dropout_of(dropout_p, seed), scale, keep_lse,
        torch.is_grad_enabled(), torch.get_num_threads(),
    )  # fmt: skip


def attention_backward_at_once(*args: Any) -> Any:
    """The arguments of :func:`attention_backward`."""
    *operands, bias, buckets, scale, dropout_p, seed, bias_grad = args
    if buckets is not None or is_elsewhere(seed):
        return None
    return native.module().attention.backward_at_once(
        *operands, bias, dropout_of(dropout_p, seed), scale, bias_grad, torch.get_num_threads()
    )


def attention_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    mask: list[int],
    mask_tensors: list[Tensor],
    bias: Tensor | None,
    buckets: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
    bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grads = [fresh(empty_like_query(x, x.shape[3])) for x in (query, key, value)]
    grad_bias = bias_gradient_like(bias, bias_grad)
    call, kept = _call(query, key, value, out, lse, mask, mask_tensors, bias, buckets, scale, dropout_p, seed)
    source = source_gradient(grads[1], grads[2], grad_bias, buckets)
    gradients, also_kept = problem_gradient(grad_out, grad_lse, grads[0], (source,))
    native.module().attention.backward((call,), (gradients,), torch.get_num_threads())
    del kept, also_kept
    return (*grads, grad_bias)  # type: ignore[return-value]


def _call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    mask: list[int],
    mask_tensors: list[Tensor],
    bias: Tensor | None,
    buckets: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[tuple[object, ...], object]:
    """A problem of one source, and the tensors that must outlive the call."""
    given, kept = source(query.size(2), key, value, mask, mask_tensors, bias, buckets)
    call, also_kept = problem(query, out, lse, (given,), value.size(1), scale, dropout_p, seed)
    return call, (kept, also_kept)


def source(
    queries: int,
    key: Tensor,
    value: Tensor,
    mask: list[int] | tuple[int, ...],
    mask_tensors: Sequence[Tensor],
    bias: Tensor | None,
    buckets: Tensor | None,
) -> tuple[tuple[object, ...], object]:
    """Keys and values as the binding takes them, and the tensors that must outlive the call."""
    key, key_numbers = _operand(key)
    value, value_numbers = _operand(value)
    tensors = [_mask_tensor(t) for t in mask_tensors] if mask_tensors else []
    bias_numbers, kept = _NO_BIAS if bias is None else _bias(bias, buckets, queries)
    return (value.size(2), key_numbers, value_numbers, mask, tensors, bias_numbers), (key, value, kept)


def problem(
    query: Tensor,
    out: Tensor,
    lse: Tensor,
    sources: Sequence[object],
    key_heads: int,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[tuple[object, ...], object]:
    """Queries and their sources, each as ``source`` gives it, and the tensors that must outlive the call."""
    batches, heads, queries, depth = query.shape
    query, query_numbers = _operand(query)
    out, out_numbers = _operand(out)
    lse = lse if lse.is_contiguous() else lse.contiguous()
    call = (
        (batches, heads, key_heads, queries, depth, out.size(3)),
        native.DTYPES[query.dtype],
        scale,
        query_numbers,
        out_numbers,
        lse.data_ptr(),
        *dropout_of(dropout_p, seed),
        sources,
    )
    return call, (query, out, lse)


def dropout_of(dropout_p: float, seed: Tensor | None) -> tuple[int, int, float]:
    return _NO_DROPOUT if seed is None else native_dropout(dropout_p, seed)


def problem_gradient(
    grad_out: Tensor, grad_lse: Tensor | None, grad_query: Tensor, sources: Sequence[object]
) -> tuple[tuple[object, ...], object]:
    grad_out, grad_out_numbers = _operand(grad_out)
    grad_lse = None if grad_lse is None else grad_lse.contiguous()
    numbers = (
        grad_out_numbers,
        0 if grad_lse is None else grad_lse.data_ptr(),
        _operand(grad_query)[1],
        sources,
    )
    return numbers, (grad_out, grad_lse)


def source_gradient(
    grad_key: Tensor, grad_value: Tensor, grad_bias: Tensor, buckets: Tensor | None
) -> tuple[object, ...]:
    return (_operand(grad_key)[1], _operand(grad_value)[1], *_bias_gradient(grad_bias, buckets))


def bias_gradient_like(bias: Tensor | None, wanted: bool) -> Tensor:
    """Zeros like the bias; of size [0] where its gradient is not wanted."""
    return torch.zeros(bias.shape if wanted and bias is not None else 0, dtype=torch.float32, device="cpu")


def _operand(x: Tensor) -> tuple[Tensor, tuple[int, int, int, int]]:
    """The tensor, or a copy whose last axis is dense; its address and strides of batch, head and row."""
    batch, head, row, column = x.stride()
    if column != 1:
        x = x.contiguous()
        batch, head, row, _ = x.stride()
    return x, (x.data_ptr(), batch, head, row)


def _mask_tensor(x: Tensor) -> tuple[int, ...]:
    """Address and strides of batch, head, query and key, of lengths [B], ids [B, L] or flags [B, H, L, S]."""
    strides = strides_of(x)
    if len(strides) == 1:
        return (x.data_ptr(), *strides, 0, 0, 0)
    if len(strides) == 2:  # for queries and keys alike: each reads along its own axis
        return (x.data_ptr(), strides[0], 0, strides[1], strides[1])
    return (x.data_ptr(), *strides)


def _bias(bias: Tensor, buckets: Tensor | None, queries: int) -> tuple[tuple[int, ...], object]:
    strides = strides_of(bias)
    if bias.dim() == 4:
        return (bias.data_ptr(), *strides, 0), bias
    batch, head, step = strides
    if buckets is not None:
        buckets = _checked(buckets, bias.shape[2])
        return (bias.data_ptr(), batch, head, 0, step, buckets.data_ptr()), buckets
    # Toeplitz: element key - query + queries - 1.
    step = bias.stride(2)
    return (bias.data_ptr() + 4 * (queries - 1) * step, batch, head, -step, step, 0), bias


def _checked(buckets: Tensor, count: int) -> Tensor:
    # The kernels read and write memory by these numbers, and only here are they at hand under a compiler too.
    if buckets.numel():
        low, high = (int(end) for end in buckets.aminmax())
        if low < 0 or high >= count:
            raise ValueError(f"bias: buckets must be 0 to {count - 1}, rows of the table, not {low} to {high}")
    return buckets.contiguous()


def _bias_gradient(grad: Tensor, buckets: Tensor | None) -> tuple[int, tuple[int, ...]]:
    """BiasForm's number; address, strides of batch, head, query and key, length of the vector."""
    if grad.numel() == 0:  # not wanted, or of no queries or keys
        return 0, _NO_BIAS[0]
    strides = strides_of(grad)
    if grad.dim() == 4:
        form = 1 if grad.shape[2] > 1 else 2
        return form, (grad.data_ptr(), *strides, grad.shape[3])
    batch, head, _ = strides
    return 3 if buckets is None else 4, (grad.data_ptr(), batch, head, 0, 1, grad.shape[2])
