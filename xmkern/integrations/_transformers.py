"""What :func:`xmkern.integrations.transformers.patch` puts in place of which class's forward.

An adapter takes the module and the arguments of forward. What it does not do it leaves to the class's own.
"""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderCache
from transformers.utils.output_capturing import _active_collector

from xmkern.functional import add_rms_norm, attention, bias_activation, bias_dropout_add
from xmkern.masks import Mask, causal
from xmkern.nn import Linear
from xmkern.nn.convolution import convolve
from xmkern.nn.feed_forward import add_norm
from xmkern.nn.linear import is_heard, product


class Adapter(NamedTuple):
    function: Callable[..., Any]
    reads: tuple[str, ...] = ()  # the dropouts and activations that it reads instead of calling them


def adapter(cls: type) -> Adapter | None:
    # By its library too: others have classes of these names.
    by_name = ADAPTERS.get(cls.__name__) if cls.__module__.startswith("transformers.models.") else None
    return by_name or _OF_TORCH.get(cls)


def is_served(module: Any) -> bool:
    return hasattr(type(module), "_xmkern_own")


def serves(module: Any, reads: tuple[str, ...]) -> bool:
    """Whether all that an adapter would read is still what it seems, and need not be called."""
    return all(_is_read(getattr(module, name)) for name in reads)


@cache
def served(cls: type[nn.Module]) -> type[nn.Module]:
    """The subclass of ``cls``, of the same name, whose forward is the adapter's.

    It is made here, so that pickles must not name it: they name ``cls``.
    """
    known = adapter(cls)
    assert known is not None
    function, reads = known

    @wraps(cls.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs) if serves(self, reads) else cls.forward(self, *args, **kwargs)

    def __reduce_ex__(self: Any, protocol: Any) -> tuple[Any, ...]:
        reduced: Any = object.__reduce_ex__(self, protocol)
        return _blank, (cls,), *reduced[2:]

    body = {"forward": forward if reads else function, "__reduce_ex__": __reduce_ex__, "_xmkern_own": cls}
    return type(cls.__name__, (cls,), {**body, "__module__": cls.__module__, "__doc__": cls.__doc__})


def _blank(cls: Any) -> nn.Module:
    return served(cls).__new__(served(cls))


def _own(module: Any, *args: Any, **kwargs: Any) -> Any:
    """What the class's own forward gives."""
    return module._xmkern_own.forward(module, *args, **kwargs)


def weights_are_wanted(kwargs: dict[str, Any]) -> bool:
    """Whether somebody reads the weights that an attention returns: by the argument, or by a hook of transformers."""
    return bool(kwargs.get("output_attentions")) or any("attentions" in key for key in _active_collector.get() or ())


def additive(mask: Mask | Tensor | None, query: Tensor, S: int) -> Tensor | None:
    """A mask as eager attention takes it: [B, H, L, S] of query's dtype, which is added to the scores."""
    B, H, L, _ = query.shape
    visible = mask.to_dense(B, H, L, S).to(query.device) if isinstance(mask, Mask) else mask
    if visible is None or visible.dtype != torch.bool:
        return visible
    return torch.zeros_like(visible, dtype=query.dtype).masked_fill(~visible, torch.finfo(query.dtype).min)


# ---- attention ---------------------------------------------------------------------------------------------------


def _rate(dropout: Any) -> float:
    return dropout.p if dropout.training else 0.0


def _heads(x: Tensor, size: int) -> Tensor:
    """[B, L, H * size] -> [B, H, L, size]"""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


def _merged(out: Tensor) -> Tensor:
    """[B, H, L, D] -> [B, L, H * D]"""
    return out.transpose(1, 2).flatten(2)


def _bert(
    module: Any, hidden_states: Tensor, attention_mask: Any = None, output_attentions: bool = False
) -> tuple[Tensor, ...]:
    return _lxmert(module, hidden_states, None, attention_mask, output_attentions)


def _lxmert(
    module: Any,
    hidden_states: Tensor,
    context: Tensor | None,
    attention_mask: Any = None,
    output_attentions: bool = False,
) -> tuple[Tensor, ...]:
    if output_attentions:
        states = (hidden_states,) if context is None else (hidden_states, context)
        return _own(module, *states, attention_mask, output_attentions)
    context = hidden_states if context is None else context
    size = module.attention_head_size
    query, key, value = (
        _heads(layer(x), size)
        for layer, x in ((module.query, hidden_states), (module.key, context), (module.value, context))
    )
    return (_merged(attention(query, key, value, attention_mask, dropout_p=_rate(module.dropout))),)


def _git(
    module: Any, hidden_states: Tensor, attention_mask: Any = None, past_key_values: Any = None, **kwargs: Any
) -> tuple[Tensor, None]:
    if weights_are_wanted(kwargs):
        return _own(module, hidden_states, attention_mask, past_key_values, **kwargs)
    size = module.attention_head_size
    query, key, value = (_heads(layer(hidden_states), size) for layer in (module.query, module.key, module.value))
    if past_key_values is not None:
        key, value = past_key_values.update(key, value, module.layer_idx)
    return _merged(attention(query, key, value, attention_mask, dropout_p=_rate(module.dropout))), None


def _blip_text(
    module: Any,
    hidden_states: Tensor,
    attention_mask: Any = None,
    encoder_hidden_states: Tensor | None = None,
    encoder_attention_mask: Any = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if weights_are_wanted(kwargs):
        given = (hidden_states, attention_mask, encoder_hidden_states, encoder_attention_mask, past_key_values)
        return _own(module, *given, **kwargs)
    crosses = encoder_hidden_states is not None
    mask = encoder_attention_mask if crosses else attention_mask
    both = isinstance(past_key_values, EncoderDecoderCache)
    cache = past_key_values
    if both:
        cache = past_key_values.cross_attention_cache if crosses else past_key_values.self_attention_cache
    if crosses and both and past_key_values.is_updated.get(module.layer_idx):
        key, value = cache.layers[module.layer_idx].keys, cache.layers[module.layer_idx].values
    else:
        states = encoder_hidden_states if crosses else hidden_states
        key, value = (_heads(layer(states), module.attention_head_size) for layer in (module.key, module.value))
        if cache is not None:
            key, value = cache.update(key, value, module.layer_idx)
            if crosses and both:
                past_key_values.is_updated[module.layer_idx] = True
    query = _heads(module.query(hidden_states), module.attention_head_size)
    return _merged(attention(query, key, value, mask, dropout_p=_rate(module.dropout))), None


def _packed(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """[B, L, 3 * H * D] -> three [B, H, L, D]"""
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _blip_vision(module: Any, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
    if weights_are_wanted(kwargs):
        return _own(module, hidden_states, **kwargs)
    out = attention(
        *_packed(module.qkv(hidden_states), module.num_heads), scale=module.scale, dropout_p=_rate(module.dropout)
    )
    return module.projection(_merged(out)), None


def _timesformer(module: Any, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, ...]:
    if output_attentions:
        return _own(module, hidden_states, output_attentions)
    heads = _packed(module.qkv(hidden_states), module.num_heads)
    return (_merged(attention(*heads, scale=module.scale, dropout_p=_rate(module.attn_drop))),)


def _image_gpt(module: Any, hidden_states: Tensor, *args: Any, output_attentions: bool = False, **kwargs: Any) -> tuple:
    """The class's own forward, and within it another attention."""
    own = module if output_attentions else _WithAttention(module)
    return module._xmkern_own.forward(own, hidden_states, *args, output_attentions=output_attentions, **kwargs)


class _WithAttention:
    """An ImageGPTAttention but for ``_attn``."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def _attn(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None) -> tuple[Tensor, None]:
        module = self._module
        scale = query.shape[-1] ** -0.5 if module.scale_attn_weights else 1.0
        if module.scale_attn_by_inverse_layer_idx:
            scale /= module.layer_idx + 1
        mask = None if module.is_cross_attention else causal(key.shape[2] - query.shape[2])
        dropout_p = _rate(module.attn_dropout)
        return attention(query, key, value, mask, bias=attention_mask, scale=scale, dropout_p=dropout_p), None


# ---- what follows a product --------------------------------------------------------------------------------------

_ACTIVATIONS: dict[str, Any] = {
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "QuickGELUActivation": "quick_gelu",
    "ReLU": "relu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
}


def _is_read(layer: Any) -> bool:
    """Whether an activation or a dropout is one that ours stand for, and nobody listens to it."""
    return (type(layer) is nn.Dropout or type(layer).__name__ in _ACTIVATIONS) and not is_heard(layer)


def _activated(layer: Any, x: Tensor, activation: Any) -> Tensor:
    return bias_activation(*product(layer, x), _ACTIVATIONS[type(activation).__name__])


def _intermediate(module: Any, hidden_states: Tensor) -> Tensor:
    return _activated(module.dense, hidden_states, module.intermediate_act_fn)


def _mlp(module: Any, hidden_states: Tensor) -> Tensor:
    return module.fc2(_activated(module.fc1, hidden_states, module.activation_fn))


def _post_norm(module: Any, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
    return add_norm(hidden_states, module.dense, input_tensor, module.LayerNorm, _rate(module.dropout))


def _residual(module: Any, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
    out, bias = product(module.dense, hidden_states)
    return bias_dropout_add(out, input_tensor, bias, dropout_p=_rate(module.dropout))


def _rms_norm(module: Any, hidden_states: Tensor) -> Tensor:
    if hidden_states.dtype != module.weight.dtype:  # as of T5 in half precision, whose residual is float32
        return _own(module, hidden_states)
    return add_rms_norm(hidden_states, weight=module.weight, eps=module.variance_epsilon)


# ---- by class ----------------------------------------------------------------------------------------------------

_POST_NORM, _INTERMEDIATE = Adapter(_post_norm, ("dropout",)), Adapter(_intermediate, ("intermediate_act_fn",))
_MLP, _RESIDUAL = Adapter(_mlp, ("activation_fn",)), Adapter(_residual, ("dropout",))
_BERT = Adapter(_bert, ("dropout",))

_OF_TORCH: dict[type, Adapter] = {
    nn.Linear: Adapter(Linear.forward),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), Adapter(convolve)),
}
ADAPTERS: dict[str, Adapter] = {
    "BlipAttention": Adapter(_blip_vision, ("dropout",)),
    "BlipTextSelfAttention": Adapter(_blip_text, ("dropout",)),
    "FlavaSelfAttention": _BERT,
    "GitSelfAttention": Adapter(_git, ("dropout",)),
    "ImageGPTAttention": Adapter(_image_gpt, ("attn_dropout",)),
    "LxmertAttention": Adapter(_lxmert, ("dropout",)),
    "TimesformerSelfAttention": Adapter(_timesformer, ("attn_drop",)),
    "ViltSelfAttention": _BERT,
    "VisualBertSelfAttention": _BERT,
    **{f"{name}Intermediate": _INTERMEDIATE for name in ("BlipText", "Flava", "Git", "Lxmert", "Vilt", "VisualBert")},
    **{f"{name}Output": _POST_NORM for name in ("BlipText", "Git", "Lxmert", "LxmertAttention", "VisualBert")},
    **{f"{name}SelfOutput": _POST_NORM for name in ("BlipText", "Git", "VisualBert")},
    **{f"{name}Output": _RESIDUAL for name in ("Flava", "Vilt")},
    **{f"{name}MLP": _MLP for name in ("Blip", "CLIP", "GitVision")},
    "T5LayerNorm": Adapter(_rms_norm),
}
