"""Two sequences that read each other by one matrix of affinities, with its projections."""

from typing import Literal

from torch import Tensor, nn

from xmkern.functional import bi_attention
from xmkern.nn.cross_attention import merge_heads, split_heads
from xmkern.nn.linear import Linear


class BiAttention(nn.Module):
    """Multi-head attention both ways by one affinity matrix, which both directions share (Lu et al., 2016; the mirrored
    matching of M-VAM, Shi et al., 2020). See :func:`xmkern.functional.bi_attention`.

    Unlike :class:`CoAttentionBlock`, where each direction has queries and keys of its own, a token has one projection
    for the affinity and one for its value: half of the projections, and one product of the sequences instead of two.

    Axes: ``B`` batch, ``L`` and ``S`` tokens of sequence a and b, ``Ea`` and ``Eb`` their embeddings.

    Args:
        dim_a, dim_b: Ea, Eb.
        num_heads: of both directions.
        attention_dim: width of all heads together, the greater of Ea and Eb by default.
        affinity: "dot" or "tanh".
        normalize: "softmax", along both axes, or None.
        bias: whether the projections have one.
    """

    def __init__(
        self,
        dim_a: int,
        dim_b: int,
        num_heads: int = 1,
        *,
        attention_dim: int | None = None,
        affinity: Literal["dot", "tanh"] = "dot",
        normalize: Literal["softmax"] | None = "softmax",
        bias: bool = True,
    ) -> None:
        super().__init__()
        inner = max(dim_a, dim_b) if attention_dim is None else attention_dim
        if inner % num_heads:
            raise ValueError(f"num_heads must divide attention_dim = {inner}, not {num_heads}")
        self.num_heads, self.affinity, self.normalize = num_heads, affinity, normalize
        self.project_a, self.project_b = (Linear(dim, 2 * inner, bias=bias) for dim in (dim_a, dim_b))
        self.out_a, self.out_b = (Linear(inner, dim, bias=bias) for dim in (dim_a, dim_b))

    def forward(
        self, a: Tensor, b: Tensor, mask_a: Tensor | None = None, mask_b: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Args:
            a: [B, L, Ea].
            b: [B, S, Eb].
            mask_a: which of a's tokens are there: bool [B, L], or lengths int [B].
            mask_b: likewise of b's tokens.

        Returns:
            [B, L, Ea], what a's tokens read in b, and [B, S, Eb], what b's read in a; no residual is added.
        """
        (key_a, value_a), (key_b, value_b) = (
            split_heads(x, self.num_heads, 2) for x in (self.project_a(a), self.project_b(b))
        )
        read_a, read_b = bi_attention(
            key_a, key_b, value_a, value_b, mask_a=mask_a, mask_b=mask_b, affinity=self.affinity,
            normalize=self.normalize,
        )  # fmt: skip
        return self.out_a(merge_heads(read_a)), self.out_b(merge_heads(read_b))
