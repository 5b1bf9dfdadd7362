"""The public calls of attention between modalities, and over several sources of keys."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from xmkern._functional.attention import _NOTHING, _check_numbers, _check_sizes, _lower
from xmkern._functional.dropout import dropout_seed
from xmkern._functional.similarities import autocast
from xmkern.biases import RelativeBias
from xmkern.masks import Mask
from xmkern.ops.cross_attention import Source
from xmkern.ops.cross_attention import cross_attention as _attend


class KeyValue(NamedTuple):
    """A source of :func:`cross_attention`: what queries attend to, with its own mask and bias.

    Where keys and values are the same in every turn of a loop (the text beside a diffusion model's steps, the image
    beside a caption's words), project them once and hold on to this: nothing of it is computed again, and it may stand
    alone or beside sources that change. A plain tuple of two to four elements will do as well.

    Attributes:
        key: [B, Hk, S, D], where Hk divides the query's heads.
        value: [B, Hk, S, Dv].
        mask, bias: what :func:`xmkern.functional.attention` takes, for the S keys of this source.
    """

    key: Tensor
    value: Tensor
    mask: Mask | Tensor | None = None
    bias: Tensor | RelativeBias | None = None


def co_attention(
    q_a: Tensor,
    k_a: Tensor,
    v_a: Tensor,
    q_b: Tensor,
    k_b: Tensor,
    v_b: Tensor,
    mask_a: Mask | Tensor | None = None,
    mask_b: Mask | Tensor | None = None,
    *,
    bias_a: Tensor | RelativeBias | None = None,
    bias_b: Tensor | RelativeBias | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Each of two streams attends to the other, as in ViLBERT (Lu et al., 2019) and LXMERT (Tan and Bansal, 2019).

    ``out_a = attention(q_a, k_b, v_b, mask_a)`` and ``out_b = attention(q_b, k_a, v_a, mask_b)``, bit for bit, in one
    call whose work is shared out among the threads as one. What belongs to a stream has its letter: queries, keys and
    values are projections of it, a mask and a bias are those of its queries.

    Args:
        q_a: [B, H, L, D]; q_b [B, H, S, D]. Heads, and D, may differ between the two directions.
        k_a: [B, Hk, L, D] and v_a [B, Hk, L, Dv]; k_b [B, Hk, S, D] and v_b [B, Hk, S, Dv]. Hk divides H.
        mask_a: which of b's S keys the L queries of a may see, [B, H, L, S] where it is a tensor; padding of b is
            ``masks.key_lengths(lengths_b)``.
        mask_b: which of a's L keys the S queries of b may see, [B, H, S, L].
        bias_a: is added to the scores of a's queries, broadcastable to [B, H, L, S] or relative.
        bias_b: broadcastable to [B, H, S, L] or relative.
        scale: 1 / sqrt(D) by default.
        dropout_p: the share of the weights that are dropped, 0 to 1, in each direction by a seed of its own.

    Returns:
        out_a [B, H, L, Dv of b] and out_b [B, H, S, Dv of a], as :func:`attention` returns them.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    queries, sources, scales = [], [], []
    for query, key, value, mask, bias, names in (
        (q_a, k_b, v_b, mask_a, bias_a, "query is q_a, key k_b, value v_b, mask mask_a, bias bias_a"),
        (q_b, k_a, v_a, mask_b, bias_b, "query is q_b, key k_a, value v_a, mask mask_b, bias bias_b"),
    ):
        try:
            query, source, used_scale = _prepare(query, KeyValue(key, value, mask, bias), scale)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error} ({names})") from None
        queries.append(query)
        sources.append((source,))
        scales.append(used_scale)
    for side, query, key in (("a", q_a, k_a), ("b", q_b, k_b)):
        if query.shape[0] != key.shape[0] or query.shape[2] != key.shape[2]:
            raise ValueError(
                f"k_{side} must be of the batch and the length of q_{side}, {query.shape[0]} and {query.shape[2]}, "
                f"not {key.shape[0]} and {key.shape[2]}"
            )
    if q_a.device != q_b.device or queries[0].dtype != queries[1].dtype:
        raise ValueError(f"q_b must be {queries[0].dtype} on {q_a.device} as q_a is, not {q_b.dtype} on {q_b.device}")
    seeds = dropout_seed(dropout_p, q_a.device, 2) if dropout_p != 0 else None
    out_a, out_b, _, _ = _attend(queries, sources, tuple(scales), dropout_p, seeds, backend)
    return out_a, out_b


@overload
def cross_attention(
    query: Tensor,
    sources: Sequence[KeyValue | tuple[Any, ...]],
    *,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...
@overload
def cross_attention(
    query: Tensor,
    sources: Sequence[KeyValue | tuple[Any, ...]],
    *,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...
def cross_attention(
    query: Tensor,
    sources: Sequence[KeyValue | tuple[Any, ...]],
    *,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention over the keys of several sources together, which are not concatenated.

    The softmax goes over all keys: the text's beside the image's own, as in GLIDE (Nichol et al., 2022) and DALL-E 2
    (Ramesh et al., 2022), or three streams at once, as in ActBERT (Zhu and Yang, 2020). The result is that of
    :func:`attention` over keys, values, masks and biases side by side; the gradients come for each source by itself.

    Args:
        query: [B, H, L, D].
        sources: one or more :class:`KeyValue`, or tuples ``(key, value)``, ``(key, value, mask)`` or
            ``(key, value, mask, bias)``, of key [B, Hk, S, D] and value [B, Hk, S, Dv], where S is each source's own.
            A mask and a bias are for the keys of their source, counted from 0.
        scale: 1 / sqrt(D) by default.
        dropout_p: the share of the weights that are dropped, 0 to 1.
        return_lse: whether to return the log-sum-exp over all sources too.

    Returns:
        [B, H, L, Dv], in the memory order of query; with ``return_lse`` also float32 [B, H, L] (float64 for float64).
        A query that sees nothing in any source gets zeros, and -inf; its gradients are zeros.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    if isinstance(sources, KeyValue) or not isinstance(sources, Sequence) or len(sources) == 0:
        found = "none" if isinstance(sources, Sequence) and len(sources) == 0 else type(sources).__name__
        raise TypeError(f"sources must be a sequence of one or more KeyValue or tuples, not {found}")
    given: list[Source] = []
    for i, each in enumerate(sources):
        if not isinstance(each, tuple) or not 2 <= len(each) <= 4:
            raise TypeError(
                f"sources[{i}] must be a KeyValue or a tuple (key, value[, mask[, bias]]), not {type(each).__name__}"
            )
        try:
            used_query, source, used_scale = _prepare(query, KeyValue(*each), scale)
        except (TypeError, ValueError) as error:
            raise type(error)(f"sources[{i}]: {error}") from None
        Hk, Dv = source.key.shape[1], source.value.shape[3]
        if given and (Hk, Dv) != (given[0].key.shape[1], given[0].value.shape[3]):
            raise ValueError(
                f"sources[{i}]: key and value must have as many heads Hk and be as wide as those of sources[0], "
                f"{given[0].key.shape[1]} and Dv = {given[0].value.shape[3]}, not {Hk} and {Dv}"
            )
        given.append(source)
    seeds = dropout_seed(dropout_p, query.device) if dropout_p != 0 else None
    out, lse = _attend((used_query,), (given,), (used_scale,), dropout_p, seeds, backend)
    return (out, lse) if return_lse else out


def _prepare(query: Tensor, source: KeyValue, scale: Any) -> tuple[Tensor, Source, float]:
    """Checks one query with one source -> both as the operator takes them, and the scale."""
    key, value, mask, bias = source
    S = _check_sizes(query, key, value)
    if torch._C._is_any_autocast_enabled():
        query, key, value = autocast(query), autocast(key), autocast(value)
    scale = _check_numbers(query, key, value, scale)
    lowered = _lower(query, S, mask, bias) if mask is not None or bias is not None else _NOTHING
    return query, Source(key, value, *lowered), scale
