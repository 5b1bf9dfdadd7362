"""What the operators mean, in plain PyTorch: attention over the keys and values of all sources side by side."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from xmkern.ops.attention import reference as attention
from xmkern.ops.attention.program import Code, dense_mask
from xmkern.ops.cross_attention.problem import Problem, problems
from xmkern.ops.dtype import wide_dtype


def cross_attention(*args: Any) -> list[Tensor]:
    """-> out [B, H, L, Dv] of each problem, then lse [B, H, L] of each"""
    results = [attention.attention(*_joined(problem, args[9])) for problem in problems(*args)]
    return [part for parts in zip(*results, strict=True) for part in parts]


def cross_attention_backward(
    grad_outs: list[Tensor],
    grad_lses: list[Tensor | None],
    queries: list[Tensor],
    keys: list[Tensor],
    values: list[Tensor],
    outs: list[Tensor],
    lses: list[Tensor],
    *rest: Any,
) -> list[Tensor]:
    """-> the gradients of queries, of keys, of values, and of biases in their own shapes ([0] where not wanted)"""
    *rest, bias_grads = rest  # type: ignore[assignment]
    grads: tuple[list[Tensor], ...] = ([], [], [], [])
    for i, problem in enumerate(problems(queries, keys, values, *rest)):
        joined = _joined(problem, rest[6])
        given: Any = (*joined[:3], outs[i], lses[i], *joined[3:], joined[5] is not None)
        grad_query, grad_key, grad_value, grad_scores = attention.attention_backward(grad_outs[i], grad_lses[i], *given)
        grads[0].append(grad_query)
        for source, place in zip(problem.sources, problem.places(), strict=True):
            at = slice(place, place + source.key.shape[2])
            grads[1].append(attention.like(grad_key[:, :, at], source.key))
            grads[2].append(attention.like(grad_value[:, :, at], source.value))
            wanted = source.bias is not None and bias_grads[len(grads[3])]
            grads[3].append(
                attention.collect(grad_scores[..., at], source.bias, source.buckets) if wanted else lses[i].new_empty(0)
            )
    return [grad for each in grads for grad in each]


def _joined(problem: Problem, dropout_p: float) -> tuple[Any, ...]:
    """One source of all: attention's arguments. Between two sources, up to a whole tile, are keys that nobody sees."""
    query, sources, scale, seed = problem
    B, H, L, _ = query.shape
    wide = wide_dtype(query.dtype)
    keys, values, visible, biases = [], [], [], []
    places = problem.places()
    for source, place, end in zip(sources, places, [*places[1:], None], strict=True):
        S = source.key.shape[2]
        gap = 0 if end is None else end - place - S
        full = (B, H, L, S)
        seen = dense_mask(source.mask, source.mask_tensors, full, query.device)
        seen = torch.ones(full, dtype=torch.bool, device=query.device) if seen is None else seen
        bias = torch.zeros(full, dtype=wide, device=query.device)
        if source.bias is not None:
            bias = bias + attention.expand_bias(source.bias, source.buckets, L, S)
        keys.append(pad(source.key, (0, 0, 0, gap)))
        values.append(pad(source.value, (0, 0, 0, gap)))
        visible.append(pad(seen, (0, gap)))
        biases.append(pad(bias, (0, gap)))
    biased = any(source.bias is not None for source in sources)
    return (
        query, torch.cat(keys, 2), torch.cat(values, 2), [int(Code.DENSE), 0], [torch.cat(visible, 3)],
        torch.cat(biases, 3) if biased else None, None, scale, dropout_p, seed,
    )  # fmt: skip
