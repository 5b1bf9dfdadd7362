"""T5's stacks: RMS norms before branches without biases, scores without a scale, one relative bias for all layers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.biases import RelativeBias, t5_buckets
from xmkern.functional import KeyValue, add_rms_norm, attention, cross_attention
from xmkern.masks import Mask
from xmkern.nn import CrossAttention, FeedForward, KeyValueCache, SelfAttention
from xmkern.nn.cross_attention import merge_heads, split_heads

BUCKETS = 32


class RmsNorm(nn.Module):
    """weight * x / sqrt(mean x^2 + eps) of [..., E]."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        return add_rms_norm(x, None, self.weight, eps=self.eps)


class T5Block(nn.Module):
    """Self-attention, cross-attention in a decoder, feed-forward; see :class:`T5Stack` for the axes."""

    def __init__(self, dim: int, heads: int, head_dim: int, hidden: int, dropout: float, decoder: bool) -> None:
        super().__init__()
        self.dropout = dropout
        self.attention = SelfAttention(dim, heads, head_dim=head_dim, bias=False)
        self.cross_attention = CrossAttention(dim, heads, head_dim=head_dim, bias=False) if decoder else None
        self.feed_forward = FeedForward(dim, hidden, "relu", bias=False)
        self.norms: Any = nn.ModuleList(RmsNorm(dim) for _ in range(2 + decoder))

    def forward(
        self,
        x: Tensor,
        context: KeyValue | None,
        mask: Mask | None,
        bias: RelativeBias,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        dropout_p = self.dropout if self.training else 0.0
        norms = iter(self.norms)
        q, k, v = split_heads(self.attention.qkv(next(norms)(x)), self.attention.num_heads, 3)
        if cache is not None:
            k, v = cache.append(k, v)
        branch = self.attention.out(merge_heads(attention(q, k, v, mask, bias=bias, scale=1.0)))
        if self.cross_attention is not None and context is not None:
            normed, x = self._join(branch, x, next(norms), dropout_p)
            (q,) = split_heads(self.cross_attention.q(normed), self.cross_attention.num_heads)
            branch = self.cross_attention.out(merge_heads(cross_attention(q, [context], scale=1.0)))
        normed, x = self._join(branch, x, next(norms), dropout_p)
        return x + F.dropout(self.feed_forward(normed), dropout_p)

    @staticmethod
    def _join(branch: Tensor, x: Tensor, norm: RmsNorm, dropout_p: float) -> tuple[Tensor, Tensor]:
        return add_rms_norm(branch, x, norm.weight, dropout_p=dropout_p, eps=norm.eps, return_sum=True)


class T5Stack(nn.Module):
    """The encoder or the decoder of T5 (Raffel et al., 2020).

    Axes: ``B`` batch, ``L`` tokens, ``S`` tokens of the encoder, ``E`` the embedding (``dim``).

    Args:
        dim: E.
        depth: the number of blocks.
        heads, head_dim: of all attentions.
        hidden: width of the feed-forward layers.
        dropout: of what joins the residual, in training.
        decoder: whether it has cross-attention, and looks back only.
    """

    def __init__(
        self, dim: int, depth: int, heads: int, head_dim: int, hidden: int, dropout: float = 0.0, decoder: bool = False
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.blocks: Any = nn.ModuleList(T5Block(dim, heads, head_dim, hidden, dropout, decoder) for _ in range(depth))
        self.bias = nn.Embedding(BUCKETS, heads)
        self.norm = RmsNorm(dim)

    def relative_bias(self, L: int, S: int, others: int = 0) -> RelativeBias:
        """Of L queries that are the last of S keys; the last ``others`` of both stand nowhere and have none."""
        table, device = self.bias.weight, self.bias.weight.device
        both_ways = not self.decoder
        if not others:
            return RelativeBias(table, t5_buckets(L, S, BUCKETS, bidirectional=both_ways, offset=S - L, device=device))
        text = S - others
        distances = t5_buckets(text, text, BUCKETS, bidirectional=both_ways, device=device)
        places = torch.arange(text, device=device)
        buckets = torch.full((S, S), BUCKETS, dtype=torch.int32, device=device)
        buckets[:text, :text] = distances[places - places[:, None] + text - 1]
        return RelativeBias(F.pad(table, (0, 0, 0, 1)), buckets)

    def forward(
        self,
        x: Tensor,
        contexts: list[KeyValue] | None = None,
        *,
        mask: Mask | None = None,
        others: int = 0,
        caches: list[KeyValueCache] | None = None,
    ) -> Tensor:
        """Args:
            x: [B, L, E].
            contexts: of a decoder, each block's keys and values of the encoder, as :meth:`contexts` makes them.
            mask: of the self-attention.
            others: how many tokens at the end have no place in the sentence.
            caches: one for each block.

        Returns:
            [B, L, E].
        """
        before = caches[0].length if caches else 0
        bias = self.relative_bias(x.shape[1], before + x.shape[1], others)
        for i, block in enumerate(self.blocks):
            x = block(x, contexts[i] if contexts else None, mask, bias, caches[i] if caches else None)
        return self.norm(x)

    def contexts(self, encoded: Tensor, mask: Mask | None = None) -> list[KeyValue]:
        """[B, S, E] -> its keys and values for each block."""
        return [block.cross_attention.keys_values(encoded, mask) for block in self.blocks]
