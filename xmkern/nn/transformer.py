"""Transformer layers: torch.nn's, with fused attention inside."""

from typing import Any

import torch
from torch import Tensor, nn

from xmkern.nn.attention import MultiheadAttention
from xmkern.nn.linear import Linear


class TransformerEncoderLayer(nn.TransformerEncoderLayer):
    """:class:`torch.nn.TransformerEncoderLayer` on fused attention: its constructor, state dict, arguments and outputs.

    Also as a layer of :class:`torch.nn.TransformerEncoder`. See :class:`xmkern.nn.MultiheadAttention` for masks and for
    what differs from torch.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.self_attn = MultiheadAttention.from_torch(self.self_attn)
        self.linear1.__class__ = self.linear2.__class__ = Linear

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Axes: ``N`` batch, ``L`` tokens, ``E`` the embedding (``d_model``), ``H`` heads.

        Args:
            src: [L, N, E]; [N, L, E] if ``batch_first``; [L, E] for a single sample.
            src_mask: [L, L] or [N * H, L, L]; bool, True hides, or float, added to the scores.
            src_key_padding_mask: [N, L] or [L]; bool, True hides, or float, added to the scores.
            is_causal: token i sees tokens 0 to i; needs no ``src_mask``.

        Returns:
            Shaped like ``src``.
        """
        if src.is_nested:
            if src_key_padding_mask is not None:
                raise AssertionError("src_key_padding_mask must be None where src is nested, which has no padding")
            return self._nested(src, src_mask, is_causal)
        # torch's forward would rather call a kernel of its own, which knows nothing of ``self_attn``.
        if self.norm_first:
            x = src + self._sa_block(self.norm1(src), src_mask, src_key_padding_mask, is_causal=is_causal)
            return x + self._ff_block(self.norm2(x))
        x = self.norm1(src + self._sa_block(src, src_mask, src_key_padding_mask, is_causal=is_causal))
        return self.norm2(x + self._ff_block(x))

    def _nested(self, src: Tensor, src_mask: Tensor | None, is_causal: bool) -> Tensor:
        """A ragged batch, as :class:`torch.nn.TransformerEncoder` makes of a padded one in evaluation mode."""
        lengths = [len(sample) for sample in src.unbind()]
        padded = src.to_padded_tensor(0.0)
        places = torch.arange(padded.shape[1], device=src.device)
        padding = places >= torch.tensor(lengths, device=src.device)[:, None]
        out = self(padded, src_mask, padding, is_causal)
        return torch.nested.as_nested_tensor([x[:length] for x, length in zip(out, lengths, strict=True)])


class TransformerDecoderLayer(nn.TransformerDecoderLayer):
    """:class:`torch.nn.TransformerDecoderLayer` on fused attention: its constructor, state dict, arguments and outputs.

    Also as a layer of :class:`torch.nn.TransformerDecoder`. See :class:`xmkern.nn.MultiheadAttention` for masks and for
    what differs from torch.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.self_attn = MultiheadAttention.from_torch(self.self_attn)
        self.multihead_attn = MultiheadAttention.from_torch(self.multihead_attn)
        self.linear1.__class__ = self.linear2.__class__ = Linear
