"""Attention layers with their projections: on itself, on other sequences, behind a gate."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xmkern import functional
from xmkern.biases import RelativeBias
from xmkern.functional import KeyValue, gated_residual
from xmkern.masks import Mask
from xmkern.nn.cache import KeyValueCache
from xmkern.nn.feed_forward import FeedForward
from xmkern.nn.linear import Linear, product

Context = Tensor | KeyValue


def split_heads(x: Tensor, heads: int, parts: int = 1) -> tuple[Tensor, ...]:
    """[B, L, parts * H * D] -> ``parts`` views [B, H, L, D]"""
    return x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, L, D] -> [B, L, H * D]"""
    return x.transpose(1, 2).flatten(2)


def _inner(dim: int, num_heads: int, head_dim: int | None) -> int:
    if head_dim is None and dim % num_heads:
        raise ValueError(f"num_heads must divide dim = {dim} where head_dim is not given, not {num_heads}")
    return num_heads * (head_dim or dim // num_heads)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence on itself; one product makes queries, keys and values.

    Axes: ``B`` batch, ``L`` tokens, ``E`` the embedding (``dim``), ``H`` heads of size D.

    Args:
        dim: E.
        num_heads: H.
        head_dim: D, E / H by default.
        bias: whether the projections have one.
        dropout: the share of the attention weights that are dropped in training.
    """

    def __init__(
        self, dim: int, num_heads: int, *, head_dim: int | None = None, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        inner = _inner(dim, num_heads, head_dim)
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = Linear(dim, 3 * inner, bias=bias)
        self.out = Linear(inner, dim, bias=bias)

    def heads(
        self,
        x: Tensor,
        mask: Mask | Tensor | None = None,
        bias: Tensor | RelativeBias | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """[B, L, E] -> [B, L, H * D], what ``out`` projects."""
        q, k, v = split_heads(self.qkv(x), self.num_heads, 3)
        if cache is not None:
            k, v = cache.append(k, v)
        dropout_p = self.dropout if self.training else 0.0
        return merge_heads(functional.attention(q, k, v, mask, bias=bias, dropout_p=dropout_p))

    def forward(
        self,
        x: Tensor,
        mask: Mask | Tensor | None = None,
        bias: Tensor | RelativeBias | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """[B, L, E] -> [B, L, E]; mask and bias as :func:`xmkern.functional.attention` takes them.

        With a cache the keys are those it holds and then those of x, which it keeps.
        """
        return self.out(self.heads(x, mask, bias, cache))


class CrossAttention(nn.Module):
    """Multi-head attention of a sequence on one other, or on several together.

    With several contexts the softmax goes over the keys of all of them, which are never concatenated
    (:func:`xmkern.functional.cross_attention`); each has a projection of its own. What does not change from call to
    call is projected once by :meth:`keys_values`, and the result given in its place.

    Axes: ``B`` batch, ``L`` queries, ``S`` tokens of a context, ``E`` the embedding (``dim``), ``C`` that of a context,
    ``H`` heads of size D.

    Args:
        dim: E.
        num_heads: H.
        context_dim: C; a sequence of them for several contexts; E by default.
        head_dim: D, E / H by default.
        bias: whether the projections have one.
        dropout: the share of the attention weights that are dropped in training.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        context_dim: int | Sequence[int] | None = None,
        *,
        head_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        inner = _inner(dim, num_heads, head_dim)
        widths = [context_dim or dim] if context_dim is None or isinstance(context_dim, int) else context_dim
        if not widths:
            raise ValueError("context_dim must name at least one context")
        self.num_heads, self.dropout = num_heads, dropout
        self.q = Linear(dim, inner, bias=bias)
        self.kv = nn.ModuleList(Linear(width, 2 * inner, bias=bias) for width in widths)
        self.out = Linear(inner, dim, bias=bias)

    def keys_values(self, context: Tensor, mask: Mask | Tensor | None = None, *, source: int = 0) -> KeyValue:
        """The keys and values of one context, [B, S, C]: project once, attend in every turn of a loop.

        Args:
            context: [B, S, C].
            mask: which of its tokens a query may see, as :func:`xmkern.functional.attention` takes it.
            source: which of several contexts it is.
        """
        key, value = split_heads(self.kv[source](context), self.num_heads, 2)
        return KeyValue(key, value, mask)

    def heads(self, x: Tensor, context: Context | Sequence[Context], mask: Mask | Tensor | None = None) -> Tensor:
        """[B, L, E] -> [B, L, H * D], what ``out`` projects."""
        contexts = [context] if isinstance(context, Tensor | KeyValue) else context
        if len(contexts) != len(self.kv):
            raise ValueError(f"context must be {len(self.kv)} of them, not {len(contexts)}")
        if mask is not None and (len(contexts) > 1 or isinstance(contexts[0], KeyValue)):
            raise ValueError("mask must be None with several contexts or a KeyValue: keys_values takes each's own")
        sources = [
            each if isinstance(each, KeyValue) else self.keys_values(each, mask, source=i)
            for i, each in enumerate(contexts)
        ]
        (q,) = split_heads(self.q(x), self.num_heads)
        dropout_p = self.dropout if self.training else 0.0
        return merge_heads(functional.cross_attention(q, sources, dropout_p=dropout_p))

    def forward(self, x: Tensor, context: Context | Sequence[Context], mask: Mask | Tensor | None = None) -> Tensor:
        """Args:
            x: [B, L, E].
            context: [B, S, C], or what :meth:`keys_values` made of it; with several, one of either each, in order.
            mask: of a single context given as a tensor, as :func:`xmkern.functional.attention` takes it.

        Returns:
            [B, L, E].
        """
        return self.out(self.heads(x, context, mask))


class GatedCrossAttention(nn.Module):
    """Cross-attention and feed-forward that enter behind gates, beside layers which are there already.

    ``gate="tanh"``: y = x + tanh(a) attention(LN(x), context), then y + tanh(b) feed_forward(LN(y)), where a and b are
    numbers that begin at 0, so that the network begins as it was without (Flamingo, Alayrac et al., 2022).
    ``gate="sigmoid"``: y = x + sigmoid(W [x, c]) * c with c = attention(LN(x), context), an element of the gate for
    each of c (as I2Transformer mixes what it attends to, Tu et al., 2022), then y + feed_forward(LN(y)).

    Axes: those of :class:`CrossAttention`.

    Args:
        dim, num_heads, context_dim, head_dim, dropout: see :class:`CrossAttention`.
        gate: "tanh" or "sigmoid".
        hidden, activation: of the :class:`FeedForward`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        context_dim: int | Sequence[int] | None = None,
        *,
        gate: str = "tanh",
        head_dim: int | None = None,
        hidden: int | None = None,
        activation: str = "gelu",
        dropout: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if gate not in ("tanh", "sigmoid"):
            raise ValueError(f"gate must be 'tanh' or 'sigmoid', not {gate!r}")
        self.attention = CrossAttention(dim, num_heads, context_dim, head_dim=head_dim, dropout=dropout)
        self.feed_forward = FeedForward(dim, hidden, activation)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.gate = Linear(2 * dim, dim) if gate == "sigmoid" else None
        if gate == "tanh":
            self.attention_gate, self.feed_forward_gate = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, context: Context | Sequence[Context], mask: Mask | Tensor | None = None) -> Tensor:
        """[B, L, E] -> [B, L, E]; arguments as in :meth:`CrossAttention.forward`."""
        heads, out = self.attention.heads(self.attention_norm(x), context, mask), self.attention.out
        if self.gate is None:
            attended, bias = product(out, heads)
            x = gated_residual(attended, x, self.attention_gate, bias=bias, activation="tanh")
        else:
            attended = out(heads)
            x = gated_residual(attended, x, self.gate(torch.cat([x, attended], -1)), activation="sigmoid")
        branch, bias = product(self.feed_forward.down, self.feed_forward.inner(self.feed_forward_norm(x)))
        if self.gate is not None:
            return gated_residual(branch, x, bias=bias)
        return gated_residual(branch, x, self.feed_forward_gate, bias=bias, activation="tanh")
