"""The public calls of attention."""

from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal, NoReturn, overload

import torch
from torch import Tensor

from xmkern._functional.dropout import dropout_seed
from xmkern._functional.similarities import autocast
from xmkern.biases import RelativeBias
from xmkern.masks import Mask, causal, dense
from xmkern.ops.attention import attention as _attend
from xmkern.ops.attention import attention_at_once
from xmkern.ops.dtype import wide_dtype

_CAUSAL = causal()
_NOTHING: tuple[tuple[int, ...], tuple[Tensor, ...], None, None] = ((), (), None, None)  # masks or adds nothing
_DTYPES = {torch.float32, torch.bfloat16, torch.float16, torch.float64}


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask | Tensor | None = None,
    *,
    bias: Tensor | RelativeBias | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...
@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask | Tensor | None = None,
    *,
    bias: Tensor | RelativeBias | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask | Tensor | None = None,
    *,
    bias: Tensor | RelativeBias | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(scale * query key^T + bias, over the visible keys) value (Vaswani et al., 2017), the matrix never made.

    Memory, of the forward and of what is kept for the backward, grows with L and S, not with their product. Sums are
    in float32 for float32, bfloat16 and float16; float64 is served by the reference. Under autocast, query, key and
    value are cast as torch's own attention casts them.

    Args:
        query: [B, H, L, D].
        key: [B, Hk, S, D], where Hk divides H: head h of the query reads head h // (H / Hk) (grouped-query attention).
        value: [B, Hk, S, Dv].
        mask: which keys a query may see: a mask of :mod:`xmkern.masks`; or a tensor, broadcastable to [B, H, L, S],
            either bool (True: visible) or of floating point, and then it is one more bias.
        bias: is added to the scores: a tensor broadcastable to [B, H, L, S], in whose own shape the gradient comes, or
            a :class:`xmkern.biases.RelativeBias`. It is float32 inside whatever its dtype.
        scale: 1 / sqrt(D) by default.
        dropout_p: the share of the weights that are dropped, 0 to 1. The seed is drawn from torch's generator of the
            device.
        return_lse: whether to return the log-sum-exp too, by which parts are merged (:func:`merge_attention`).

    Returns:
        [B, H, L, Dv], in the memory order of query; with ``return_lse`` also float32 [B, H, L] (float64 for float64).
        A query that sees nothing gets zeros, and -inf; its gradients are zeros.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    if bias is None and dropout_p == 0 and backend == "auto":
        made = _at_once(query, key, value, mask, scale, return_lse)
        if made is not None:
            return made if return_lse else made[0]
    S = _check_sizes(query, key, value)
    if torch._C._is_any_autocast_enabled():
        query, key, value = autocast(query), autocast(key), autocast(value)
    scale = _check_numbers(query, key, value, scale)
    given = _lower(query, S, mask, bias) if mask is not None or bias is not None else _NOTHING
    seed: Tensor | None = None
    if dropout_p != 0:
        seed = dropout_seed(dropout_p, query.device)

    out, lse = _attend(query, key, value, *given, scale, dropout_p, seed, backend)
    return (out, lse) if return_lse else out


def _at_once(
    query: Tensor, key: Tensor, value: Tensor, mask: Any, scale: Any, return_lse: bool
) -> tuple[Tensor, Tensor] | None:
    """Attention, where the extension can serve it without checks by name."""
    if torch._C._is_any_autocast_enabled() or not getattr(query, "is_cpu", False):
        return None
    program: tuple[int, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    if mask is not None:
        if isinstance(mask, Tensor) and mask.dtype == torch.bool:
            mask = _visible(mask)
        if not isinstance(mask, Mask):
            return None
        program, tensors = mask.program, mask.tensors
    return attention_at_once(query, key, value, program, tensors, scale, return_lse)


def merge_attention(outs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Attention over all keys from attentions over parts of them (Rabe and Staats, 2021); differentiable.

    Args:
        outs: [B, H, L, Dv] each: what :func:`attention` gave for the same queries and one part of the keys.
        lses: [B, H, L] each, as ``return_lse=True`` gives them.

    Returns:
        out [B, H, L, Dv] in the dtype of the parts, and lse [B, H, L].
    """
    if len(outs) == 0 or len(outs) != len(lses):
        raise ValueError(f"lses must be as many as outs, and at least one, not {len(lses)} for {len(outs)}")
    for i, (out, lse) in enumerate(zip(outs, lses, strict=True)):
        if out.shape != outs[0].shape:
            raise ValueError(f"outs[{i}] must be of shape {list(outs[0].shape)} as outs[0] is, not {list(out.shape)}")
        if lse.shape != out.shape[:-1]:
            raise ValueError(f"lses[{i}] must be of shape {list(out.shape[:-1])}, not {list(lse.shape)}")
    parts = torch.stack(tuple(lses))
    most = parts.detach().amax(0)
    weights = (parts - most.masked_fill(most == -torch.inf, 0)).exp()
    total = weights.sum(0)
    empty = total == 0  # nothing seen in any part: zeros and -inf, and no gradient
    total = total.masked_fill(empty, 1)
    shares = (weights / total)[..., None]
    merged = sum(share * out.to(share.dtype) for share, out in zip(shares, outs, strict=True))
    lse = (total.log() + most.masked_fill(empty, 0)).masked_fill(empty, -torch.inf)
    return merged.to(outs[0].dtype), lse


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``torch.nn.functional.scaled_dot_product_attention``, argument for argument, by :func:`attention`.

    Args:
        query: [..., H, L, D]; key [..., H, S, D]; value [..., H, S, Dv]; leading axes broadcast, and may be missing.
        attn_mask: broadcastable to [..., H, L, S]; bool (True: visible) or of floating point, which is added.
        is_causal: whether, of those that ``attn_mask`` leaves, key j is visible to query i only where j <= i.
        enable_gqa: whether key and value may have fewer heads, a divisor of H.

    Returns:
        [..., H, L, Dv].
    """
    if attn_mask is not None and not isinstance(attn_mask, Tensor):
        raise TypeError(f"attn_mask must be a tensor, not {type(attn_mask).__name__}: masks go to xmkern's attention")
    try:
        fit = (
            query.dim() == key.dim() == value.dim() == 4
            and query.shape[0] == key.shape[0] == value.shape[0]
            and (query.shape[1] == key.shape[1] == value.shape[1] or (enable_gqa and key.shape[1] == value.shape[1]))
        )
    except AttributeError:
        _complain(query, key, value)
    if not fit:
        return _any_axes(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    if attn_mask is not None and attn_mask.dtype not in (torch.bool, torch.float32, query.dtype):
        raise TypeError(f"attn_mask must be bool, float32 or of query's dtype, not {attn_mask.dtype}")
    mask: Mask | Tensor | None = attn_mask
    bias: Tensor | None = None
    if is_causal:
        mask = _CAUSAL
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            mask = dense(attn_mask) & _CAUSAL
        else:
            bias = attn_mask
    return attention(query, key, value, mask, bias=bias, scale=scale, dropout_p=dropout_p)


def _any_axes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Tensor:
    """``scaled_dot_product_attention`` with axes that are missing, more than four, or to be broadcast."""
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.dim() < 2:
            raise ValueError(f"{name} must have at least two axes, [..., length, head size], not shape {list(x.shape)}")
    if enable_gqa:
        if min(query.dim(), key.dim(), value.dim()) < 3:
            raise ValueError("query, key and value must have an axis of heads where enable_gqa is True")
        heads = query.shape[-3]
        key, value = (x.repeat_interleave(heads // max(x.shape[-3], 1), -3) for x in (key, value))
    try:
        lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    except RuntimeError:
        shapes = ", ".join(str(list(x.shape)) for x in (query, key, value))
        raise ValueError(f"query, key and value must broadcast in all but the last two axes, not {shapes}") from None

    def four(x: Tensor) -> Tensor:
        """[..., m, n] -> [B, H, m, n]"""
        x = x.expand(*lead, *x.shape[-2:])
        return x[(None,) * (4 - x.dim())] if x.dim() <= 4 else x.flatten(0, -4)

    if attn_mask is not None and len(lead) > 2 and attn_mask.dim() > 2:
        attn_mask = four(attn_mask)
    out = scaled_dot_product_attention(
        four(query), four(key), four(value), attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    return out.reshape(*lead, *out.shape[-2:])


def _check_sizes(query: Tensor, key: Tensor, value: Tensor) -> int:
    """-> S. A few comparisons where all is well, a sentence where it is not."""
    try:
        B, H, _, D = query.shape
        key_B, Hk, S, key_D = key.shape
        value_B, value_H, value_S, _ = value.shape
        fit = (
            (B, B, Hk, S, D) == (key_B, value_B, value_H, value_S, key_D)
            and (Hk == H or (Hk > 0 and H % Hk == 0))
            and D > 0
            and query.device == key.device == value.device
            and query.layout == key.layout == value.layout == torch.strided
        )
    except (AttributeError, ValueError, RuntimeError):  # a nested tensor may have no shape
        fit = False
    return S if fit else _complain(query, key, value)


def _complain(query: Any, key: Any, value: Any) -> NoReturn:
    given = (("query", query, "[B, H, L, D]"), ("key", key, "[B, Hk, S, D]"), ("value", value, "[B, Hk, S, Dv]"))
    for name, x, axes in given:
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor, not {type(x).__name__}")
        if x.is_nested:
            raise TypeError(f"{name} must not be nested: pad it and hide the padding by masks.key_lengths, or pack it")
        if x.layout != torch.strided:
            raise TypeError(f"{name} must be dense, not of layout {x.layout}")
        if x.dim() != 4:
            raise ValueError(f"{name} must have four axes, {axes}, not shape {list(x.shape)}")
    B, H, _, D = query.shape
    _, Hk, S, _ = key.shape
    if D == 0:
        raise ValueError("query must have a head size D of at least 1, not 0")
    if key.shape[0] != B or key.shape[3] != D:
        raise ValueError(f"key must have the axes [B, Hk, S, D] with B = {B} and D = {D}, not {list(key.shape)}")
    if Hk == 0 or H % Hk:
        raise ValueError(f"key must have a number of heads Hk that divides query's, {H}, not {Hk}")
    if value.shape[:3] != key.shape[:3]:
        raise ValueError(f"value must have the axes [B, Hk, S, Dv] = {[B, Hk, S, 'Dv']}, not {list(value.shape)}")
    raise ValueError(f"key and value must be on {query.device} as query is, not on {key.device} and {value.device}")


def _check_numbers(query: Tensor, key: Tensor, value: Tensor, scale: Any) -> float:
    """-> the scale"""
    if query.dtype not in _DTYPES or query.dtype != key.dtype or query.dtype != value.dtype:
        raise TypeError(
            "query, key and value must be of one dtype, float32, bfloat16, float16 or float64, "
            f"not {query.dtype}, {key.dtype} and {value.dtype}"
        )
    return query.shape[3] ** -0.5 if scale is None else check_scale(scale, "query")


def check_scale(scale: Any, scaled: str) -> float:
    """-> the scale; ``scaled`` is the name of a tensor that it multiplies."""
    if isinstance(scale, Tensor):
        raise TypeError(f"scale must be a number, not a tensor, which would get no gradient: multiply {scaled} by it")
    if not isinstance(scale, Real | torch.SymFloat | torch.SymInt):
        raise TypeError(f"scale must be a number, not {type(scale).__name__}")
    return scale  # type: ignore[return-value]


def _lower(
    query: Tensor, S: int, mask: Any, bias: Any
) -> tuple[tuple[int, ...], tuple[Tensor, ...], Tensor | None, Tensor | None]:
    """-> the operator's mask program, its tensors, bias and buckets"""
    program: tuple[int, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    if mask is not None:
        if isinstance(mask, Tensor):
            if mask.dtype == torch.bool:
                mask = _visible(mask)
            else:
                bias, mask = _sum_of_biases(_bias("mask", mask, query, S), bias, query, S), None
        if mask is not None:
            program, tensors = _program(mask, query, S)
    buckets: Tensor | None = None
    if bias is not None:
        if isinstance(bias, RelativeBias):
            bias, buckets = _relative(bias, query, S)
        else:
            bias = _bias("bias", bias, query, S)
    return program, tensors, bias, buckets


def _visible(mask: Tensor) -> Mask:
    """A bool mask, checked by the name that it has here."""
    if mask.dim() > 4:
        raise ValueError(f"mask must have at most four axes, [B, H, L, S], not shape {list(mask.shape)}")
    return dense(mask)


def _program(mask: Any, query: Tensor, S: int) -> tuple[tuple[int, ...], tuple[Tensor, ...]]:
    if not isinstance(mask, Mask):
        raise TypeError(f"mask must be a tensor or a mask of xmkern.masks, not {type(mask).__name__}")
    if mask.tensors:
        B, H, L, _ = query.shape
        mask.check(B, H, L, S)
        for tensor in mask.tensors:
            if tensor.device != query.device:
                raise ValueError(f"mask must be on {query.device} as query is, not on {tensor.device}: {mask!r}")
    return mask.program, mask.tensors


def _bias(name: str, bias: Any, query: Tensor, S: int) -> Tensor:
    """-> [B|1, H|1, L|1, S|1] in float32, or float64 beside float64"""
    if not isinstance(bias, Tensor):
        raise TypeError(f"{name} must be a tensor or a RelativeBias, not {type(bias).__name__}")
    if not bias.is_floating_point():
        raise TypeError(f"{name} must be of floating point{' or bool' if name == 'mask' else ''}, not {bias.dtype}")
    B, H, L, _ = query.shape
    full = (B, H, L, S)
    if bias.dim() < 4:
        bias = bias[(None,) * (4 - bias.dim())]
    if bias.dim() > 4 or any(size not in (1, most) for size, most in zip(bias.shape, full, strict=True)):
        raise ValueError(f"{name} must broadcast to [B, H, L, S] = {list(full)}, not {list(bias.shape)}")
    return _wide(name, bias, query)


def _wide(name: str, bias: Tensor, query: Tensor) -> Tensor:
    if bias.device != query.device:
        raise ValueError(f"{name} must be on {query.device} as query is, not on {bias.device}")
    return bias.to(wide_dtype(query.dtype))


def _relative(bias: RelativeBias, query: Tensor, S: int) -> tuple[Tensor, Tensor | None]:
    _, H, L, _ = query.shape
    bias.check(H, L, S)
    # In float32 before the lookup, so that the gradients that meet in a row of the table are summed in it.
    return RelativeBias(_wide("bias", bias.table, query), bias.buckets).compact()


def _sum_of_biases(mask: Tensor, bias: Tensor | RelativeBias | None, query: Tensor, S: int) -> Tensor:
    """Two biases are one: their sum, which has the axes of both."""
    if bias is None:
        return mask
    if isinstance(bias, RelativeBias):
        _, H, L, _ = query.shape
        bias.check(H, L, S)
        return mask + RelativeBias(_wide("bias", bias.table, query), bias.buckets).to_dense(L, S)
    return mask + _bias("bias", bias, query, S)
