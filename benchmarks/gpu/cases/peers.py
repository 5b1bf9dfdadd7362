"""Who else computes attention: eager PyTorch, each backend of its fused attention, FlexAttention, flash-attn."""

import importlib.util
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu.cases import DRY, Calls, compiles
from xmkern import masks

BACKENDS = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION", "math": "MATH"}

_MOST_SCORES = 1 << 29


def visible(mask: masks.Mask | None, query: Tensor, key: Tensor) -> Tensor | None:
    """bool, what the mask leaves visible, as others take it."""
    return None if mask is None else mask.to_dense(len(query), 1, query.shape[2], key.shape[2]).to(query.device)


def eager(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
    scores = query @ key.mT * query.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias.to(query.dtype)
    if seen is not None:
        scores = scores.masked_fill(~seen, -math.inf)
    return scores.softmax(-1) @ value


def eager_causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    L, S = query.shape[2], key.shape[2]
    return eager(query, key, value, seen=torch.ones(L, S, dtype=torch.bool, device=query.device).tril())


def sdpa(backend: str, causal: bool) -> Callable[..., Tensor]:
    def call(query: Tensor, key: Tensor, value: Tensor, bias: Any = None, seen: Any = None) -> Tensor:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        given = None if causal else seen
        if bias is not None:
            given = bias.to(query.dtype)
            if seen is not None:
                given = given.masked_fill(~seen, -math.inf)
        with sdpa_kernel([getattr(SDPBackend, BACKENDS[backend])]):
            return scaled_dot_product_attention(query, key, value, given, is_causal=causal)

    return call


@cache
def compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if DRY else torch.compile(flex_attention, dynamic=False)


def flex(sees: Callable[[int], Callable[..., Tensor]] | None) -> Callable[..., Tensor]:
    """sees: of so many queries, FlexAttention's own form of the mask, (batch, head, query, key) -> bool."""
    blocks: dict[tuple[int, int], Any] = {}

    def call(query: Tensor, key: Tensor, value: Tensor, bias: Any = None, seen: Any = None) -> Tensor:
        from torch.nn.attention.flex_attention import create_block_mask

        size = query.shape[2], key.shape[2]
        if sees is not None and size not in blocks:  # made once, as a program would
            blocks[size] = create_block_mask(sees(size[0]), None, None, *size, device=query.device)
        score = None
        if bias is not None:
            score = lambda s, b, h, i, j: s + bias[0, h, i, j]  # noqa: E731
        return compiled_flex()(query, key, value, score_mod=score, block_mask=blocks.get(size))

    return call


def flash_attn(causal: bool) -> Calls:
    if importlib.util.find_spec("flash_attn") is None:
        return {}

    def call(query: Tensor, key: Tensor, value: Tensor, bias: Any = None, seen: Any = None) -> Tensor:
        from flash_attn import flash_attn_func

        return flash_attn_func(*(x.transpose(1, 2) for x in (query, key, value)), causal=causal).transpose(1, 2)

    return {"flash-attn": call}


def everyone(causal: bool, sees: Any, plain: bool, compiled: bool, scores: int) -> Calls:
    """plain: neither mask nor bias, or causal. compiled: those too that take seconds to compile. scores: how many there
    are, which some write to memory."""
    fused = ["math"] if DRY else [name for name in BACKENDS if name != "math" or scores <= _MOST_SCORES]
    found: dict[str, Callable[..., Any]] = {f"sdpa {name}": sdpa(name, causal) for name in fused}
    if plain and not DRY:
        found |= flash_attn(causal)
    plainly = eager_causal if causal else eager
    if scores <= _MOST_SCORES:
        found["eager"] = plainly
    if compiled:
        found |= {**(compiles(plainly) if scores <= _MOST_SCORES and not DRY else {}), "flex": flex(sees)}
    return found
