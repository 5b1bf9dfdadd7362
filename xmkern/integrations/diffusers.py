"""diffusers on our kernels: :class:`AttnProcessor` for ``set_attn_processor``, by hand or by :func:`patch`.

The schedulers are :mod:`xmkern.diffusion`'s: ``pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)``.
"""

from collections import Counter
from typing import Any

from diffusers.models.attention_processor import (
    Attention,
    AttnAddedKVProcessor,
    AttnAddedKVProcessor2_0,
    AttnProcessor2_0,
)
from diffusers.models.attention_processor import AttnProcessor as _EagerProcessor
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.functional import KeyValue, cross_attention

__all__ = ["AttnProcessor", "patch", "unpatch"]


class AttnProcessor:
    """Attention of a UNet, of an autoencoder or of a prior: to itself, to a text, or to a text and itself at once.

    What ``AttnProcessor2_0`` does, and for modules with ``added_kv_proj_dim`` (GLIDE, DALL-E 2) what
    ``AttnAddedKVProcessor2_0`` does; there text and image are two sources, which are not concatenated.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """
        Args:
            attn: the module that calls.
            hidden_states: [B, L, C], or [B, C, height, width].
            encoder_hidden_states: [B, S, E], what is attended to; by default what attends.
            attention_mask: [B, 1 or L, S], added to the scores.
            temb: of the spatial norm.
        """
        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        channels_first = hidden_states.dim() > 3 or attn.added_kv_proj_dim is not None
        if channels_first:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        context = encoder_hidden_states
        if context is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        if attn.added_kv_proj_dim is not None and context is None:
            context = hidden_states
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)

        query = _heads(attn.to_q(hidden_states), attn.heads)
        projected = []
        if attn.added_kv_proj_dim is not None:
            projected.append((attn.add_k_proj(context), attn.add_v_proj(context)))
            context = hidden_states
        if attn.to_k is not None:
            context = hidden_states if context is None else context
            projected.append((attn.to_k(context), attn.to_v(context)))
        pairs = [(_heads(key, attn.heads), _heads(value, attn.heads)) for key, value in projected]
        if attn.added_kv_proj_dim is None:
            if attn.norm_q is not None:
                query = attn.norm_q(query)
            if attn.norm_k is not None:
                pairs = [(attn.norm_k(key), value) for key, value in pairs]
        sources = _masked(pairs, attention_mask, attn.heads)
        out = cross_attention(query, sources, scale=None if attn.scale_qk else 1.0)

        out = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))
        if channels_first:
            out = out.transpose(1, 2).reshape(residual.shape)
        if attn.added_kv_proj_dim is not None:
            return out + residual
        if attn.residual_connection:
            out = out + residual
        return out if attn.rescale_output_factor == 1 else out / attn.rescale_output_factor


def _heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, H * D] -> [B, H, L, D]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _masked(pairs: list[tuple[Tensor, Tensor]], mask: Tensor | None, heads: int) -> list[KeyValue]:
    """The mask, [B or B * H, 1 or L, S], is of the keys of all sources side by side; it may end before the last."""
    if mask is None:
        return [KeyValue(*pair) for pair in pairs]
    lengths = [key.shape[2] for key, _ in pairs]
    batch = pairs[0][0].shape[0]
    mask = F.pad(mask, (0, sum(lengths) - mask.shape[-1]))
    mask = mask.unflatten(0, (batch, heads)) if len(mask) == batch * heads > batch else mask[:, None]
    return [KeyValue(*pair, bias=part) for pair, part in zip(pairs, mask.split(lengths, -1), strict=True)]


# What a processor of ours may stand for; others (IP-Adapter's, LoRA's, a sliced one) mean more than plain attention.
_PLAIN = (_EagerProcessor, AttnProcessor2_0, AttnAddedKVProcessor, AttnAddedKVProcessor2_0)


def patch(model: nn.Module) -> dict[str, int]:
    """Gives every attention module of ``model`` with a plain processor ours. Weights stay as they are.

    Returns:
        How many modules had which processor.

    Raises:
        ValueError: there was none to change.
    """
    changed: Counter[str] = Counter()
    for module in model.modules():
        if isinstance(module, Attention) and type(module.processor) in _PLAIN and _serves(module):
            module.__dict__["_xmkern_before"] = module.processor
            changed[type(module.processor).__name__] += 1
            module.set_processor(AttnProcessor())  # type: ignore[arg-type]
    if not changed:
        raise ValueError(f"model: {type(model).__name__} has no attention module with a plain processor")
    return dict(changed)


def unpatch(model: nn.Module) -> dict[str, int]:
    """Undoes :func:`patch`; returns how many modules have which processor again, and raises ValueError where none was
    ours."""
    changed: Counter[str] = Counter()
    for module in model.modules():
        if isinstance(module, Attention) and isinstance(module.processor, AttnProcessor):
            before: Any = module.__dict__.pop("_xmkern_before", None) or AttnProcessor2_0()
            module.set_processor(before)
            changed[type(module.processor).__name__] += 1
    if not changed:
        raise ValueError(f"model: {type(model).__name__} has no attention module with a processor of ours")
    return dict(changed)


def _serves(attn: Attention) -> bool:
    """Whether all heads have keys of their own, and there is an output."""
    return attn.inner_kv_dim == attn.inner_dim and attn.to_out is not None
