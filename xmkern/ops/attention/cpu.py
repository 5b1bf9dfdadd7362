"""Launches the C++ kernels: makes the memory, passes addresses and strides."""

import torch
from torch import Tensor

from xmkern import native
from xmkern.ops.attention.layout import empty_like_query

MAX_DEPTH = 256
_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_NO_BIAS = (0, 0, 0, 0, 0, 0)


def refuses(query: Tensor, key: Tensor, value: Tensor, *args: object) -> str | None:
    if query.device.type != "cpu":
        return f"the tensors are on {query.device}"
    if query.dtype not in _DTYPES:
        return f"the kernels take float32, bfloat16 and float16, not {query.dtype}"
    if query.shape[-1] > MAX_DEPTH or value.shape[-1] > MAX_DEPTH:
        return f"the kernels take heads of up to {MAX_DEPTH} numbers, not {max(query.shape[-1], value.shape[-1])}"
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
    query, key, value = _dense(query), _dense(key), _dense(value)
    out = empty_like_query(query, value.shape[3])
    lse = torch.empty(query.shape[:3], dtype=torch.float32)
    call, kept = _call(query, key, value, out, lse, mask, mask_tensors, bias, buckets, scale, dropout_p, seed)
    native.module().attention.forward(*call, torch.get_num_threads())
    del kept
    return out, lse


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
    query, key, value, out, grad_out = _dense(query), _dense(key), _dense(value), _dense(out), _dense(grad_out)
    grad_query, grad_key, grad_value = (empty_like_query(x, x.shape[3]) for x in (query, key, value))
    grad_bias = torch.zeros(bias.shape if bias_grad and bias is not None else 0, dtype=torch.float32)
    lse = lse.contiguous()
    grad_lse = None if grad_lse is None else grad_lse.contiguous()
    call, kept = _call(query, key, value, out, lse, mask, mask_tensors, bias, buckets, scale, dropout_p, seed)
    native.module().attention.backward(
        *call,
        _operand(grad_out),
        0 if grad_lse is None else grad_lse.data_ptr(),
        _operand(grad_query),
        _operand(grad_key),
        _operand(grad_value),
        *_bias_gradient(grad_bias, buckets),
        torch.get_num_threads(),
    )
    del kept
    return grad_query, grad_key, grad_value, grad_bias


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
    """The arguments that both directions share, and the tensors that must outlive the call."""
    batches, heads, queries, depth = query.shape
    _, key_heads, keys, value_depth = value.shape
    tensors = [_mask_tensor(t) for t in mask_tensors] if mask_tensors else []
    bias_numbers, kept = _NO_BIAS, None
    if bias is not None:
        bias_numbers, kept = _bias(bias, buckets, queries)
    threshold = min(round(dropout_p * 2**32), 2**32 - 1)
    call = (
        (batches, heads, key_heads, queries, keys, depth, value_depth),
        _DTYPES[query.dtype],
        scale,
        _operand(query),
        _operand(key),
        _operand(value),
        _operand(out),
        lse.data_ptr(),
        mask,
        tensors,
        bias_numbers,
        threshold,
        0 if seed is None else int(seed) & (2**64 - 1),
        1 / (1 - dropout_p) if dropout_p < 1 else 0.0,
    )
    return call, kept


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _operand(x: Tensor) -> tuple[int, ...]:
    return (x.data_ptr(), *x.stride()[:3])


def _strides(x: Tensor) -> list[int]:
    """Strides with 0 for the axes that do not vary."""
    return [0 if size == 1 else stride for size, stride in zip(x.shape, x.stride(), strict=True)]


def _mask_tensor(x: Tensor) -> tuple[int, ...]:
    """Address and strides of batch, head, query and key, of lengths [B], ids [B, L] or flags [B, H, L, S]."""
    strides = _strides(x)
    if len(strides) == 1:
        return (x.data_ptr(), *strides, 0, 0, 0)
    if len(strides) == 2:  # for queries and keys alike: each reads along its own axis
        return (x.data_ptr(), strides[0], 0, strides[1], strides[1])
    return (x.data_ptr(), *strides)


def _bias(bias: Tensor, buckets: Tensor | None, queries: int) -> tuple[tuple[int, ...], object]:
    strides = _strides(bias)
    if bias.dim() == 4:
        return (bias.data_ptr(), *strides, 0), bias
    batch, head, step = strides
    if buckets is not None:
        buckets = buckets.contiguous()
        return (bias.data_ptr(), batch, head, 0, step, buckets.data_ptr()), buckets
    # Toeplitz: element key - query + queries - 1.
    step = bias.stride(2)
    return (bias.data_ptr() + 4 * (queries - 1) * step, batch, head, -step, step, 0), bias


def _bias_gradient(grad: Tensor, buckets: Tensor | None) -> tuple[int, tuple[int, ...]]:
    """BiasForm's number; address, strides of batch, head, query and key, length of the vector."""
    if grad.dim() == 1:
        return 0, _NO_BIAS
    strides = _strides(grad)
    if grad.dim() == 4:
        form = 1 if grad.shape[2] > 1 else 2
        return form, (grad.data_ptr(), *strides, grad.shape[3])
    batch, head, _ = strides
    return 3 if buckets is None else 4, (grad.data_ptr(), batch, head, 0, 1, grad.shape[2])
