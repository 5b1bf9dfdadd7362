"""Launches attention's Triton kernels: for each source a launch, with what belongs to all sources in common."""

from typing import Any

import torch
from torch import Tensor

from xmkern.ops.attention import triton
from xmkern.ops.attention.layout import empty_like_query
from xmkern.ops.cross_attention.problem import Problem, problems


def refuses(
    queries: list[Tensor], keys: list[Tensor], values: list[Tensor], counts: list[int], *rest: Any
) -> str | None:
    """Why these arguments cannot be served, or None."""
    at = 0
    for query, count in zip(queries, counts, strict=True):
        for key, value in zip(keys[at : at + count], values[at : at + count], strict=True):
            reason = triton.refuses(query, key, value)
            if reason is not None:
                return reason
        at += count
    return None


def cross_attention(*args: Any) -> list[Tensor]:
    results = [
        triton.attention_of_sources(p.query, p.sources, p.places(), p.scale, args[9], p.seed) for p in problems(*args)
    ]
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
    *rest, bias_grads = rest  # type: ignore[assignment]
    grads: tuple[list[Tensor], ...] = ([], [], [], [])
    for i, problem in enumerate(problems(queries, keys, values, *rest)):
        given = (grad_outs[i], grad_lses[i])
        wanted = bias_grads[len(grads[1]) : len(grads[1]) + len(problem.sources)]
        grad_query, *others = _backward(problem, given, (outs[i], lses[i]), rest[6], wanted)
        grads[0].append(grad_query)
        for each, found in zip(grads[1:], others, strict=True):
            each.extend(found)
    return [grad for each in grads for grad in each]


def _backward(
    problem: Problem,
    given: tuple[Tensor, Tensor | None],
    results: tuple[Tensor, Tensor],
    dropout_p: float,
    bias_grads: list[bool],
) -> tuple[Any, ...]:
    """-> the gradient of the query; those of keys, values and biases"""
    query, sources, scale, seed = problem
    grad_query = empty_like_query(query, query.shape[3])
    # Several shares of the query's gradient are added in float32.
    shares = grad_query[None]
    if len(sources) > 1:
        shares = torch.empty(len(sources), *query.shape, dtype=torch.float32, device=query.device)
    found = []
    for (key, value, *how), place, share, wanted in zip(sources, problem.places(), shares, bias_grads, strict=True):
        rest: tuple[Any, ...] = (*results, *how, scale, dropout_p, seed, wanted, place, share)
        found.append(triton.attention_backward(*given, query, key, value, *rest)[1:])
    if len(sources) > 1:
        grad_query.copy_(shares.sum(0))
    return grad_query, *zip(*found, strict=True)
