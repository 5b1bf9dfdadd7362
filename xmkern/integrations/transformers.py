"""transformers on our kernels.

    register()                                                     once; then, wherever a class lets it be chosen,
    model = BertModel.from_pretrained(name, attn_implementation="xmkern")

    patch(model)    what cannot be chosen: models that know eager attention alone, and what follows products

Neither touches weights. Both are undone: :func:`unregister`, :func:`unpatch`.
"""

from collections import Counter
from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import type_before_parametrizations
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

from xmkern import functional, masks
from xmkern.integrations._transformers import adapter, additive, is_served, served, serves, weights_are_wanted
from xmkern.nn.swap import become

__all__ = ["NAME", "patch", "register", "unpatch", "unregister"]

NAME = "xmkern"

# The arguments of attentions in transformers that change what an attention is, and of which no mask tells. Models also
# pass on whatever else they were given, so that a list of the harmless ones would not hold.
_REFUSED = ("softcap", "s_aux", "sinks", "indices", "block_indices", "cache")


def register() -> str:
    """Makes ``attn_implementation="xmkern"`` known to transformers: an attention, and the masks that it takes.

    Calls that ask for ``output_attentions`` are served by the model's eager attention. A query that may see nothing
    gets zeros, as of torch's attention; eager attention gives it the mean of all values.

    Returns:
        The name, "xmkern". Registering again changes nothing.
    """
    AttentionInterface.register(NAME, _attention)
    # Without it transformers passes no mask at all, and padding would be seen in silence.
    AttentionMaskInterface.register(NAME, _mask)
    return NAME


def unregister() -> None:
    """Undoes :func:`register`. Models that were made to use it must have been set back before.

    Raises:
        RuntimeError: it was not registered.
    """
    if NAME not in AttentionInterface._global_mapping:
        raise RuntimeError(f"unregister: no attention is registered as {NAME!r}")
    for interface in (AttentionInterface, AttentionMaskInterface):
        interface._global_mapping.pop(NAME, None)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: masks.Mask | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """``is_causal`` is not asked, as eager attention does not ask it: where there is a diagonal, the mask has it, and
    some modules that are not causal say that they are.

    query [B, H, L, D], key and value [B, Hk, S, D] -> [B, L, H, D], and None or the weights [B, H, L, S]"""
    for name in _REFUSED:
        if kwargs.get(name) is not None:
            raise ValueError(
                f"attn_implementation={NAME!r} does not know {name}, which {type(module).__name__} asks for"
            )
    if weights_are_wanted(kwargs):
        eager = _eager(module)
        if position_bias is not None:
            kwargs["position_bias"] = position_bias
        mask = additive(attention_mask, query, key.shape[2])
        return eager(module, query, key, value, mask, dropout=dropout, scaling=scaling, **kwargs)
    if query.shape[0] != key.shape[0]:  # queries that are learned, the same for all samples
        query = query.expand(key.shape[0], -1, -1, -1)
    out = functional.attention(query, key, value, attention_mask, bias=position_bias, scale=scaling, dropout_p=dropout)
    return out.transpose(1, 2).contiguous(), None


def _eager(module: nn.Module) -> Callable[..., Any]:
    """The eager attention that the class falls back to; a file may have several, of which forward names one."""
    forward: Any = unwrap(type(module).forward)
    for name in forward.__code__.co_names:
        if name.endswith("eager_attention_forward"):
            eager: Callable[..., Any] = forward.__globals__[name]
            return eager
    raise ValueError(
        f"output_attentions cannot be served with attn_implementation={NAME!r}: forward of {type(module).__name__} "
        "names no eager attention; use 'eager'"
    )


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    **kwargs: Any,
) -> masks.Mask | Tensor | None:
    """Key lengths, a diagonal, flags of keys or None where that says it all; else bool [B, 1, L, S].

    ``attention_mask`` is bool [B, S] or longer, of all keys so far; the two ``allow`` say that nobody else reads what
    is returned.
    """
    causal = mask_function is causal_mask_function and allow_is_causal_skip
    if (
        not (causal or (mask_function is bidirectional_mask_function and allow_is_bidirectional_skip))
        or isinstance(q_offset, Tensor)  # of a static cache, for which masks are made before the model is called
        or (causal and kv_length + kv_offset != q_length + q_offset)  # likewise, while it is filled
        or torch.compiler.is_compiling()  # what follows looks at values
    ):
        return sdpa_mask(
            batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
            allow_is_causal_skip=False, allow_is_bidirectional_skip=False, **kwargs,
        )  # fmt: skip
    visible = None if attention_mask is None else _keys(attention_mask, kv_length, kv_offset)
    offset = q_offset - kv_offset
    if causal and offset < kv_length - 1:  # else the first query sees all
        diagonal = masks.causal(offset)
        visible = diagonal if visible is None else visible & diagonal
    return visible


def _keys(attention_mask: Tensor, kv_length: int, kv_offset: int) -> masks.Mask | None:
    """bool [B, S] -> which keys are visible, or None for all"""
    keys = F.pad(attention_mask, (0, max(kv_offset + kv_length - attention_mask.shape[1], 0)))
    keys = keys[:, kv_offset : kv_offset + kv_length]
    if keys.all():
        return None
    lengths = keys.sum(1)
    if torch.equal(keys, torch.arange(kv_length, device=keys.device) < lengths[:, None]):
        return masks.key_lengths(lengths)
    return masks.dense(keys[:, None, None])


def patch(model: nn.Module) -> dict[str, int]:
    """Puts our kernels into the modules of ``model`` whose classes do not let an attention be chosen, and into what
    follows their products: bias, activation, dropout, residual, norm.

    Weights, state dict and arguments stay as they are; a module's class becomes a subclass of it, of the same name.
    What is asked of a module that ours do not do (``output_attentions``, an activation that we lack, a layer that
    another library has replaced) is served as before. Copies and pickles of the model are patched as it is.

    Returns:
        How many modules of which class were changed.

    Raises:
        ValueError: there was none to change, or one has had its ``forward`` replaced by somebody else.
    """
    changed: Counter[str] = Counter()
    for name, module in model.named_modules():
        cls = type_before_parametrizations(module)
        known = None if is_served(module) else adapter(cls)
        if known is None or not serves(module, known.reads):
            continue
        if "forward" in module.__dict__:
            raise ValueError(f"model: forward of {name} is not its class's any more; patch before others wrap it")
        become(module, served(cls))
        changed[cls.__name__] += 1
    if not changed:
        raise ValueError(
            f"model: {type(model).__name__} has no module to patch that is not patched already; "
            'perhaps it takes attn_implementation="xmkern" (see register)'
        )
    return dict(changed)


def unpatch(model: nn.Module) -> dict[str, int]:
    """Undoes :func:`patch`; returns how many modules of which class, and raises ValueError where there was none, or
    somebody else has wrapped one's ``forward``."""
    changed: Counter[str] = Counter()
    for name, module in model.named_modules():
        cls: Any = type_before_parametrizations(module)
        if is_served(module):
            if "forward" in module.__dict__:
                raise ValueError(
                    f"model: forward of {name} is not its class's any more; unpatch after others unwrap it"
                )
            become(module, cls._xmkern_own)
            changed[cls.__name__] += 1
    if not changed:
        raise ValueError(f"model: {type(model).__name__} has no module that is patched")
    return dict(changed)
