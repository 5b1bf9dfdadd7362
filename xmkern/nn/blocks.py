"""The transformer block of which most of the zoo is made."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.biases import RelativeBias
from xmkern.functional import bias_dropout_add, sandwich_layer_norm
from xmkern.masks import Mask
from xmkern.nn.cache import KeyValueCache
from xmkern.nn.cross_attention import Context, CrossAttention, SelfAttention
from xmkern.nn.feed_forward import FeedForward, add_norm
from xmkern.nn.linear import is_plain, product

# What makes of its input what the projection beside it takes.
Branch = tuple[Callable[[Tensor], Tensor], nn.Linear]


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention where there is a context, and feed-forward, each beside a residual.

    ``order`` says where LayerNorm stands: "post" after each sum (Vaswani et al., 2017), "pre" before each branch
    (Xiong et al., 2020), "sandwich" before and after each branch (CogView, Ding et al., 2021). Bias, dropout, sum and
    the norms that follow a projection are one pass over memory.

    Axes: ``B`` batch, ``L`` tokens, ``E`` the embedding (``dim``), ``H`` heads, ``S`` and ``C`` length and embedding of
    a context.

    Args:
        dim: E.
        num_heads: H.
        order: "pre", "post" or "sandwich".
        hidden, activation: of the :class:`FeedForward`.
        context_dim: C, or several, for cross-attention; None for none.
        head_dim: size of a head, E / H by default.
        dropout: of what joins the residual, in training.
        attention_dropout: of the attention weights, in training.
        eps: of the norms.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        order: str = "pre",
        hidden: int | None = None,
        activation: str = "gelu",
        context_dim: int | Sequence[int] | None = None,
        head_dim: int | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if order not in ("pre", "post", "sandwich"):
            raise ValueError(f"order must be 'pre', 'post' or 'sandwich', not {order!r}")
        self.order, self.dropout = order, dropout
        self.attention = SelfAttention(dim, num_heads, head_dim=head_dim, dropout=attention_dropout)
        self.cross_attention = (
            CrossAttention(dim, num_heads, context_dim, head_dim=head_dim, dropout=attention_dropout)
            if context_dim is not None
            else None
        )
        self.feed_forward = FeedForward(dim, hidden, activation)
        branches = 2 if context_dim is None else 3
        # To a type checker the items of a module list are no more than modules.
        self.norms: Any = nn.ModuleList(nn.LayerNorm(dim, eps) for _ in range(branches))
        self.branch_norms: Any = nn.ModuleList(
            nn.LayerNorm(dim, eps) for _ in range(branches if order == "sandwich" else 0)
        )

    def forward(
        self,
        x: Tensor,
        context: Context | Sequence[Context] | None = None,
        *,
        mask: Mask | Tensor | None = None,
        bias: Tensor | RelativeBias | None = None,
        context_mask: Mask | Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Args:
            x: [B, L, E].
            context: as :meth:`CrossAttention.forward` takes it; needed where the block has cross-attention.
            mask, bias: of the self-attention, as :func:`xmkern.functional.attention` takes them.
            context_mask: of a single context that is a tensor.
            cache: of the self-attention: x are the tokens after those whose keys it holds.

        Returns:
            [B, L, E].
        """
        if (context is None) != (self.cross_attention is None):
            raise ValueError("context must be given where context_dim was, and only there")
        branches: list[Branch] = [(lambda y: self.attention.heads(y, mask, bias, cache), self.attention.out)]
        if (cross := self.cross_attention) is not None and context is not None:
            branches.append((lambda y: cross.heads(y, context, context_mask), cross.out))
        branches.append((self.feed_forward.inner, self.feed_forward.down))
        return getattr(self, "_" + self.order)(x, branches, self.dropout if self.training else 0.0)

    def _post(self, x: Tensor, branches: list[Branch], dropout_p: float) -> Tensor:
        for (branch, out), norm in zip(branches, self.norms, strict=True):
            x = add_norm(branch(x), out, x, norm, dropout_p)
        return x

    def _pre(self, x: Tensor, branches: list[Branch], dropout_p: float) -> Tensor:
        normed = self.norms[0](x)
        for (branch, out), norm in zip(branches[:-1], self.norms[1:], strict=True):
            normed, x = add_norm(branch(normed), out, x, norm, dropout_p, return_sum=True)
        branch, out = branches[-1]
        branched, bias = product(out, branch(normed))
        return bias_dropout_add(branched, x, bias, dropout_p=dropout_p)

    def _sandwich(self, x: Tensor, branches: list[Branch], dropout_p: float) -> Tensor:
        normed = self.norms[0](x)
        for i, (branch, out) in enumerate(branches):
            after, following = self.branch_norms[i], self.norms[i + 1] if i + 1 < len(branches) else None
            branched, bias = product(out, branch(normed))
            if not (is_plain(after) and (following is None or is_plain(following))):
                x = x + after(F.dropout(branched if bias is None else branched + bias, dropout_p))
                normed = x if following is None else following(x)
                continue
            common: dict[str, Any] = {"linear_bias": bias, "dropout_p": dropout_p, "eps": after.eps}
            if following is None:
                return sandwich_layer_norm(branched, x, after.weight, after.bias, **common)
            normed, x = sandwich_layer_norm(
                branched, x, after.weight, after.bias, next_norm=True, next_weight=following.weight,
                next_bias=following.bias, **common,
            )  # fmt: skip
        return x
