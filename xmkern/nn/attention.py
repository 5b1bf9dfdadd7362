"""Multi-head attention: torch.nn's parameters and arguments over fused attention."""

import math
from collections.abc import Sequence
from functools import reduce
from operator import add, and_

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern import masks
from xmkern.functional import attention, linear


class MultiheadAttention(nn.MultiheadAttention):
    """:class:`torch.nn.MultiheadAttention` on fused attention: its constructor, state dict, arguments and outputs.

    ``need_weights=False`` takes memory O(L) in the forward and in what is kept for the backward; masks stay as compact
    as they come. What differs from torch:

    - ``is_causal=True`` needs no ``attn_mask``. Where both are given, the hint is believed and the mask is not read.
    - A query that may attend to nothing gives zeros, before the output projection, and zero weights; torch gives NaN.
    - Dropout draws other elements than torch's, at the same rate. The weights returned are those before dropout, the
      mean of what torch returns; so asking for them leaves the output and its gradients as they are.
    - One of ``attn_mask`` and ``key_padding_mask`` may be bool and the other float.
    - With ``add_bias_kv`` or ``add_zero_attn`` and ``is_causal=True`` every query sees the appended keys, as torch has
      it with ``need_weights=True``; with False torch hides them.
    - Nested tensors are left to torch.

    Reference: Vaswani et al., Attention Is All You Need, NIPS 2017.
    """

    @classmethod
    def from_torch(cls, module: nn.MultiheadAttention) -> "MultiheadAttention":
        """``module`` as one of this class, which shares its parameters."""
        own = cls.__new__(cls)
        own.__dict__ = module.__dict__.copy()
        return own

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Axes: ``N`` batch, ``L`` queries, ``S`` keys, ``E`` the embedding (``embed_dim``), ``H`` heads.

        Args:
            query: [L, N, E]; [N, L, E] if ``batch_first``; [L, E] for a single sample.
            key: [S, N, kdim], [N, S, kdim] or [S, kdim].
            value: [S, N, vdim], [N, S, vdim] or [S, vdim].
            key_padding_mask: [N, S] or [S]; bool, True hides the key from all queries, or float, added to the scores.
            need_weights: whether to return the weights, which takes memory O(L S).
            attn_mask: [L, S] or [N * H, L, S]; bool, True hides the key from the query, or float, added to the scores.
                A float mask may require a gradient. Two float masks are summed, the one case that takes [N, 1, L, S].
            average_attn_weights: whether to average the weights over the heads.
            is_causal: query i sees keys 0 to i.

        Returns:
            The output, shaped like ``query``, and None or the weights: [N, L, S], or [N, H, L, S] if not averaged;
            without N for a single sample.

        Raises:
            AssertionError, RuntimeError: a shape or dtype that does not fit; the same as torch's.
        """
        if query.is_nested:
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        _check(query, key, value, self.embed_dim)
        single = query.dim() == 2
        # From [N, L, H, D] or [L, N, H, D] to [N, H, L, D], and back.
        split, merge = ((0, 2, 1, 3),) * 2 if self.batch_first or single else ((1, 2, 0, 3), (2, 0, 1, 3))
        q, k, v = (
            (x[None] if single else x).unflatten(-1, (self.num_heads, self.head_dim)).permute(split)
            for x in self._project(query, key, value)
        )
        padding = key_padding_mask[None] if single and key_padding_mask is not None else key_padding_mask
        mask, bias = _masks(
            q, k, padding, attn_mask, is_causal, appended=(self.bias_k is not None) + self.add_zero_attn
        )
        k, v = self._append(k, self.bias_k), self._append(v, self.bias_v)
        out = attention(q, k, v, mask, bias=bias, dropout_p=self.dropout if self.training else 0.0)
        out = linear(out.permute(merge).flatten(2), self.out_proj.weight, self.out_proj.bias)
        weights = _weights(q, k, mask, bias) if need_weights else None
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if single:
            return out[0], None if weights is None else weights[0]
        return out, weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> Sequence[Tensor]:
        """[..., E], [..., kdim], [..., vdim] -> three [..., E]"""
        bias, packed = self.in_proj_bias, self.in_proj_weight
        if packed is not None and query is key is value:
            return linear(query, packed, bias).chunk(3, -1)
        separate = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = separate if packed is None else packed.chunk(3)
        biases = (None, None, None) if bias is None else bias.chunk(3)
        return [linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]

    def _append(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Keys or values [N, H, S, D], then ``bias_k`` or ``bias_v`` [1, 1, E], then the zeros of ``add_zero_attn``."""
        if bias is not None:
            token = bias.to(x.dtype).view(1, self.num_heads, 1, self.head_dim)
            x = torch.cat([x, token.expand(x.shape[0], -1, -1, -1)], 2)
        return F.pad(x, (0, 0, 0, 1)) if self.add_zero_attn else x


def _check(query: Tensor, key: Tensor, value: Tensor, embed_dim: int) -> None:
    if query.dim() not in (2, 3):
        raise AssertionError(f"query must have three axes, or two for a single sample, not shape {list(query.shape)}")
    for name, x in (("key", key), ("value", value)):
        if x.dim() != query.dim():
            raise AssertionError(f"{name} must have {query.dim()} axes, as query has, not shape {list(x.shape)}")
    if query.shape[-1] != embed_dim:
        raise AssertionError(f"query must have embed_dim = {embed_dim} columns, not shape {list(query.shape)}")
    if key.shape[:-1] != value.shape[:-1]:
        raise AssertionError(f"value must be as long as key {list(key.shape)}, not of shape {list(value.shape)}")


def _masks(
    q: Tensor, k: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None, is_causal: bool, appended: int
) -> tuple[masks.Mask | None, Tensor | None]:
    """What of q [N, H, L, D] and k [N, H, S, D] is visible, and what is added; all see keys that are ``appended``."""
    (batch, heads, queries, _), keys = q.shape, k.shape[2]
    visible: list[masks.Mask] = []
    added: list[Tensor] = []

    def take(name: str, mask: Tensor) -> None:
        if mask.dtype != torch.bool and not mask.is_floating_point():
            raise AssertionError(f"{name} must be bool or floating point, not {mask.dtype}")
        mask = F.pad(mask, (0, appended)) if appended else mask
        if mask.dtype == torch.bool:
            visible.append(masks.dense(~mask))
        else:
            added.append(mask)

    if key_padding_mask is not None:
        if key_padding_mask.shape != (batch, keys):
            raise AssertionError(f"key_padding_mask must fit {[batch, keys]}, not {list(key_padding_mask.shape)}")
        take("key_padding_mask", key_padding_mask[:, None, None])
    if attn_mask is not None:
        if attn_mask.dim() not in (2, 3):
            raise AssertionError(f"attn_mask must have two or three axes, not shape {list(attn_mask.shape)}")
        expected = (queries, keys) if attn_mask.dim() == 2 else (batch * heads, queries, keys)
        if attn_mask.shape != expected:
            raise RuntimeError(f"attn_mask must be {list(expected)}, not {list(attn_mask.shape)}")
        if not is_causal:
            take("attn_mask", attn_mask if attn_mask.dim() == 2 else attn_mask.unflatten(0, (batch, heads)))
    if is_causal:
        causal = masks.causal()
        visible.append(
            causal | masks.dense(torch.arange(keys + appended, device=k.device) >= keys) if appended else causal
        )
    return reduce(and_, visible) if visible else None, reduce(add, added) if added else None


def _weights(q: Tensor, k: Tensor, mask: masks.Mask | None, bias: Tensor | None) -> Tensor:
    """q [N, H, L, D], k [N, H, S, D] -> their softmax [N, H, L, S] in plain PyTorch; zeros where nothing is visible."""
    scores = q / math.sqrt(q.shape[-1]) @ k.mT
    if mask is None and bias is None:
        return scores.softmax(-1)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    if mask is not None:
        scores = scores.masked_fill(~mask.to_dense(*scores.shape).to(scores.device), -math.inf)
    # The least number stands for -inf in the softmax: a row of nothing else comes out even instead of NaN.
    hidden = scores == -math.inf
    return scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(hidden, 0)
