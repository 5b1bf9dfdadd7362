"""What attention means, in plain PyTorch, with every matrix written out. Named axes: README.md of this folder.

Matrices are multiplied in the inputs' own dtype, as a model in eager PyTorch does; the softmax, the biases and their
gradients are in float32, or float64 where the inputs are.
"""

import torch
from torch import Tensor

from xmkern.ops.attention.layout import empty_like_query
from xmkern.ops.attention.program import dense_mask
from xmkern.ops.dropout import threshold_of
from xmkern.ops.dtype import wide_dtype


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
    """-> out [B, H, L, Dv], lse [B, H, L]"""
    with _without_autocast(query):
        key, value = _share(key, query), _share(value, query)
        scores, key, value = _scores(query, key, value, mask, mask_tensors, bias, buckets, scale)
        lse = scores.logsumexp(-1)
        weights = _probabilities(scores, lse) * _kept(query, key, dropout_p, seed)
        return like(weights.to(value.dtype) @ value, query), lse


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
    """-> the gradients of query, key, value, and of bias in its own shape ([0] where ``bias_grad`` is False)"""
    with _without_autocast(query):
        shared = key, value
        key, value = _share(key, query), _share(value, query)
        scores, key, value = _scores(query, key, value, mask, mask_tensors, bias, buckets, scale)
        p, kept = _probabilities(scores, lse), _kept(query, key, dropout_p, seed)
        grad_value = (p * kept).to(value.dtype).mT @ grad_out
        grad_p = (grad_out @ value.mT).to(lse.dtype) * kept
        delta = (grad_out.to(lse.dtype) * out.to(lse.dtype)).sum(-1)
        grad_scores = p * (grad_p - (delta if grad_lse is None else delta - grad_lse)[..., None])
        grad_bias = lse.new_empty(0)
        if bias is not None and bias_grad:
            grad_bias = collect(grad_scores, bias, buckets)
        grad_scores = (grad_scores * scale).to(query.dtype)
        return (
            like(grad_scores @ key, query),
            _gather(grad_scores.mT @ query, shared[0]),
            _gather(grad_value, shared[1]),
            grad_bias,
        )


def _scores(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: list[int],
    mask_tensors: list[Tensor],
    bias: Tensor | None,
    buckets: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The scores [B, H, L, S], -inf where a key is hidden; key and value with zeros in rows that no query sees.

    Zero times NaN is NaN: without those zeros, what happens to lie in the padding would reach the result.
    """
    wide = wide_dtype(query.dtype)
    batch, heads, queries, _ = query.shape
    keys = key.shape[2]
    visible = dense_mask(mask, mask_tensors, (batch, heads, queries, keys), query.device)
    if visible is not None:
        unseen = ~visible.any(-2)[..., None]
        key, value = key.masked_fill(unseen, 0), value.masked_fill(unseen, 0)
    scores = (query @ key.mT).to(wide) * scale
    if bias is not None:
        scores = scores + expand_bias(bias, buckets, queries, keys)
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    return scores, key, value


def expand_bias(bias: Tensor, buckets: Tensor | None, queries: int, keys: int) -> Tensor:
    """Any of the three forms of a bias -> [B|1, H|1, L|1, S|1]"""
    if bias.dim() == 4:
        return bias
    return bias[:, :, _places(bias, buckets, queries, keys)]


def _places(bias: Tensor, buckets: Tensor | None, queries: int, keys: int) -> Tensor:
    """int64 [L, S]: which element of the last axis of a three-dimensional bias a score takes"""
    if buckets is not None:
        return buckets.long()
    i, j = torch.arange(queries, device=bias.device), torch.arange(keys, device=bias.device)
    return j[None, :] - i[:, None] + queries - 1


def collect(grad_scores: Tensor, bias: Tensor, buckets: Tensor | None) -> Tensor:
    """The gradient of a bias from that of the scores: what a broadcast or a lookup spread out is summed up."""
    if bias.dim() == 4:
        return grad_scores.sum_to_size(bias.shape)
    batch, heads, queries, keys = grad_scores.shape
    places = _places(bias, buckets, queries, keys).flatten()
    grad = grad_scores.new_zeros(batch, heads, bias.shape[2])
    return grad.index_add_(2, places, grad_scores.flatten(2)).sum_to_size(bias.shape)


def _share(x: Tensor, query: Tensor) -> Tensor:
    """[B, Hk, S, D] -> [B, H, S, D]: query head h reads key head h // (H // Hk)"""
    return x.repeat_interleave(query.shape[1] // x.shape[1], 1) if x.shape[1] != query.shape[1] else x


def _gather(grad: Tensor, x: Tensor) -> Tensor:
    """The inverse of ``_share`` for gradients, in the memory order of ``x``"""
    if x.shape[1] != grad.shape[1]:
        grad = grad.unflatten(1, (x.shape[1], -1)).sum(2, dtype=None if x.dtype == torch.float64 else torch.float32)
    return like(grad, x)


def like(result: Tensor, x: Tensor) -> Tensor:
    return empty_like_query(x, result.shape[-1]).copy_(result)


def _probabilities(scores: Tensor, lse: Tensor) -> Tensor:
    """softmax [B, H, L, S], zeros for the rows that see nothing"""
    return scores.softmax(-1).masked_fill((lse == -torch.inf)[..., None], 0)


def _without_autocast(x: Tensor) -> torch.autocast:
    # The operator's dtypes are settled before it is called.
    return torch.autocast(x.device.type, enabled=False)


def _kept(query: Tensor, key: Tensor, dropout_p: float, seed: Tensor | None) -> Tensor | float:
    """[B, H, L, S]: 1 / (1 - dropout_p) where an element is kept, else 0"""
    if seed is None or dropout_p == 0:
        return 1.0
    wide = wide_dtype(query.dtype)
    kept = keep_mask((*query.shape[:3], key.shape[2]), dropout_p, seed)
    return kept.to(wide) / (1 - dropout_p) if dropout_p < 1 else 0.0


def keep_mask(shape: tuple[int, int, int, int], dropout_p: float, seed: Tensor) -> Tensor:
    """bool [B, H, L, S]: which elements dropout keeps, by their own place and the seed (int64 [1]) alone.

    Element (b, h, i, j) with t = j // 64 and r = j % 64 is kept where word r // 16 of the four that Philox makes of the
    counter (16 t + r % 16, i, b H + h in two halves) is not less than ``dropout_p * 2**32``.
    """
    batch, heads, queries, keys = shape
    tiles = -(-keys // 64)
    place = torch.arange(tiles * 16, device=seed.device)
    row = torch.arange(queries, device=seed.device)[:, None]
    matrix = torch.arange(batch * heads, device=seed.device)[:, None, None]
    counter = torch.broadcast_tensors(place, row, matrix & _LOW, matrix >> 32)
    words = torch.stack([word.unflatten(-1, (tiles, 16)) for word in philox(counter, seed)], dim=-2)
    return (words.flatten(-3) >= threshold_of(dropout_p))[..., :keys].unflatten(0, (batch, heads))


_LOW = 0xFFFFFFFF


def philox(counter: tuple[Tensor, ...] | list[Tensor], seed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 (Salmon et al., 2011) on four int64 tensors that hold 32 bits each."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        p, q = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((q >> 32) & _LOW) ^ c1 ^ k0, q & _LOW, ((p >> 32) & _LOW) ^ c3 ^ k1, p & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return c0, c1, c2, c3
