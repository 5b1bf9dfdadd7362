"""Blocks in which two streams read each other: ViLBERT's co-attention and LXMERT's cross-modality layer."""

import torch
from torch import Tensor, nn

from xmkern import masks
from xmkern.functional import co_attention
from xmkern.masks import Mask
from xmkern.nn.cross_attention import SelfAttention, merge_heads, split_heads
from xmkern.nn.feed_forward import FeedForward, add_norm
from xmkern.nn.linear import Linear


def visible(mask: Mask | Tensor | None) -> Mask | Tensor | None:
    """bool [B, S], of which tokens are there, or lengths int [B] -> a mask for any queries."""
    if not isinstance(mask, Tensor):
        return mask
    if mask.dtype == torch.bool and mask.dim() == 2:
        return masks.dense(mask[:, None, None])
    if mask.dim() == 1 and not mask.is_floating_point() and mask.dtype != torch.bool:
        return masks.key_lengths(mask)
    raise ValueError(
        f"mask must be bool [B, S], lengths int [B] or a mask of xmkern.masks, not {mask.dtype} {list(mask.shape)}"
    )


class CoAttentionBlock(nn.Module):
    """A co-attention layer of ViLBERT (Lu et al., 2019): each stream's queries read the other's keys and values.

    Both attentions are one call (:func:`xmkern.functional.co_attention`), each stream's six projections one product.
    Post-norm, then a feed-forward layer for each stream. The streams may differ in length and width.

    Axes: ``B`` batch, ``L`` and ``S`` tokens of stream a and b, ``Ea`` and ``Eb`` their embeddings.

    Args:
        dim_a, dim_b: Ea, Eb.
        num_heads: of both directions.
        attention_dim: width of all heads together, the greater of Ea and Eb by default.
        hidden_a, hidden_b, activation: of the :class:`FeedForward` of each stream.
        dropout: of what joins the residual, in training.
        attention_dropout: of the attention weights, in training.
        eps: of the norms.
    """

    def __init__(
        self,
        dim_a: int,
        dim_b: int,
        num_heads: int,
        *,
        attention_dim: int | None = None,
        hidden_a: int | None = None,
        hidden_b: int | None = None,
        activation: str = "gelu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        inner = max(dim_a, dim_b) if attention_dim is None else attention_dim
        if inner % num_heads:
            raise ValueError(f"num_heads must divide attention_dim = {inner}, not {num_heads}")
        self.num_heads, self.dropout, self.attention_dropout = num_heads, dropout, attention_dropout
        self.qkv_a, self.qkv_b = Linear(dim_a, 3 * inner), Linear(dim_b, 3 * inner)
        self.out_a, self.out_b = Linear(inner, dim_a), Linear(inner, dim_b)
        self.attention_norm_a, self.attention_norm_b = nn.LayerNorm(dim_a, eps), nn.LayerNorm(dim_b, eps)
        self.feed_forward_a = FeedForward(dim_a, hidden_a, activation)
        self.feed_forward_b = FeedForward(dim_b, hidden_b, activation)
        self.norm_a, self.norm_b = nn.LayerNorm(dim_a, eps), nn.LayerNorm(dim_b, eps)

    def forward(
        self, a: Tensor, b: Tensor, mask_a: Mask | Tensor | None = None, mask_b: Mask | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Args:
            a: [B, L, Ea].
            b: [B, S, Eb].
            mask_a: which of a's tokens are there: bool [B, L], lengths int [B], or a mask of :mod:`xmkern.masks` over
                the queries of b and the keys of a.
            mask_b: likewise of b's tokens.

        Returns:
            [B, L, Ea] and [B, S, Eb].
        """
        dropout_p, attention_dropout = (self.dropout, self.attention_dropout) if self.training else (0.0, 0.0)
        q_a, k_a, v_a = split_heads(self.qkv_a(a), self.num_heads, 3)
        q_b, k_b, v_b = split_heads(self.qkv_b(b), self.num_heads, 3)
        heads_a, heads_b = co_attention(
            q_a, k_a, v_a, q_b, k_b, v_b, visible(mask_b), visible(mask_a), dropout_p=attention_dropout
        )
        a = add_norm(merge_heads(heads_a), self.out_a, a, self.attention_norm_a, dropout_p)
        b = add_norm(merge_heads(heads_b), self.out_b, b, self.attention_norm_b, dropout_p)
        a = add_norm(self.feed_forward_a.inner(a), self.feed_forward_a.down, a, self.norm_a, dropout_p)
        b = add_norm(self.feed_forward_b.inner(b), self.feed_forward_b.down, b, self.norm_b, dropout_p)
        return a, b


class CrossModalityBlock(nn.Module):
    """A cross-modality layer of LXMERT (Tan and Bansal, 2019): cross-attention, self-attention, feed-forward.

    Both directions of the cross-attention share their weights, projection and norm included, so that each stream's
    queries, keys and values are one product. Post-norm.

    Axes: ``B`` batch, ``L`` and ``S`` tokens of stream a and b, ``E`` the embedding of both (``dim``).

    Args:
        dim: E.
        num_heads: of every attention.
        hidden, activation: of the :class:`FeedForward` of each stream.
        dropout: of what joins the residual, in training.
        attention_dropout: of the attention weights, in training.
        eps: of the norms.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        hidden: int | None = None,
        activation: str = "gelu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        # The weights of an attention on itself: what differs is only whose queries meet whose keys.
        self.cross, self.attention_a, self.attention_b = (
            SelfAttention(dim, num_heads, dropout=attention_dropout) for _ in range(3)
        )
        self.feed_forward_a, self.feed_forward_b = (FeedForward(dim, hidden, activation) for _ in range(2))
        self.cross_norm, self.attention_norm_a, self.attention_norm_b, self.norm_a, self.norm_b = (
            nn.LayerNorm(dim, eps) for _ in range(5)
        )

    def forward(
        self, a: Tensor, b: Tensor, mask_a: Mask | Tensor | None = None, mask_b: Mask | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """[B, L, E] and [B, S, E] -> the same; masks as :meth:`CoAttentionBlock.forward` has them, for any queries."""
        dropout_p = self.dropout if self.training else 0.0
        mask_a, mask_b = visible(mask_a), visible(mask_b)
        q_a, k_a, v_a = split_heads(self.cross.qkv(a), self.cross.num_heads, 3)
        q_b, k_b, v_b = split_heads(self.cross.qkv(b), self.cross.num_heads, 3)
        attention_dropout = self.cross.dropout if self.training else 0.0
        heads_a, heads_b = co_attention(q_a, k_a, v_a, q_b, k_b, v_b, mask_b, mask_a, dropout_p=attention_dropout)
        a = add_norm(merge_heads(heads_a), self.cross.out, a, self.cross_norm, dropout_p)
        b = add_norm(merge_heads(heads_b), self.cross.out, b, self.cross_norm, dropout_p)
        a = add_norm(self.attention_a.heads(a, mask_a), self.attention_a.out, a, self.attention_norm_a, dropout_p)
        b = add_norm(self.attention_b.heads(b, mask_b), self.attention_b.out, b, self.attention_norm_b, dropout_p)
        a = add_norm(self.feed_forward_a.inner(a), self.feed_forward_a.down, a, self.norm_a, dropout_p)
        b = add_norm(self.feed_forward_b.inner(b), self.feed_forward_b.down, b, self.norm_b, dropout_p)
        return a, b
