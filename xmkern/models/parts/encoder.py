"""Stacks of transformer blocks."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from xmkern.biases import RelativeBias
from xmkern.masks import Mask
from xmkern.nn import KeyValueCache, TransformerBlock
from xmkern.nn.cross_attention import Context


class Transformer(nn.Module):
    """``depth`` blocks one after another, with a last norm where the order is "pre".

    Axes: ``B`` batch, ``L`` tokens, ``E`` the embedding (``dim``).

    Args:
        dim, num_heads, order, hidden, activation, context_dim, dropout, eps: of :class:`xmkern.nn.TransformerBlock`.
        depth: the number of blocks.
    """

    def __init__(
        self, dim: int, depth: int, num_heads: int, *, order: str = "pre", eps: float = 1e-5, **block: Any
    ) -> None:
        super().__init__()
        self.blocks: Any = nn.ModuleList(
            TransformerBlock(dim, num_heads, order=order, eps=eps, **block) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps) if order == "pre" else nn.Identity()

    def forward(
        self,
        x: Tensor,
        context: Context | Sequence[Context] | None = None,
        *,
        mask: Mask | Sequence[Mask] | None = None,
        bias: Tensor | RelativeBias | None = None,
        context_mask: Mask | None = None,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Tensor:
        """[B, L, E] -> [B, L, E]; ``mask`` and ``caches`` may be one for each block."""
        for i, block in enumerate(self.blocks):
            x = block(
                x,
                context,
                mask=mask if mask is None or isinstance(mask, Mask) else mask[i],
                bias=bias,
                context_mask=context_mask,
                cache=None if caches is None else caches[i],
            )
        return self.norm(x)
