"""Launches attention's C++ kernels: all problems of a call in one parallel loop."""

from typing import Any

import torch
from torch import Tensor

from xmkern import native
from xmkern.ops.attention import cpu
from xmkern.ops.attention.layout import empty_like_query
from xmkern.ops.cross_attention.problem import Problem, problems
from xmkern.ops.dropout import is_elsewhere
from xmkern.ops.fresh import fresh


def refuses(
    queries: list[Tensor], keys: list[Tensor], values: list[Tensor], counts: list[int], *rest: Any
) -> str | None:
    """Why these arguments cannot be served, or None: sources of one query are of one dtype and width."""
    at = 0
    for query, count in zip(queries, counts, strict=True):
        reason = cpu.refuses(query, keys[at], values[at])
        if reason is not None:
            return reason
        at += count
    return None


def cross_attention(*args: Any) -> list[Tensor]:
    outs, lses, calls, kept = [], [], [], []
    for problem in problems(*args):
        query = problem.query
        outs.append(fresh(empty_like_query(query, problem.sources[0].value.size(3))))
        lses.append(torch.empty(query.shape[:3], dtype=torch.float32, device="cpu"))
        call, keep = _call(problem, outs[-1], lses[-1], args[9])
        calls.append(call)
        kept.append(keep)
    native.module().attention.forward(calls, torch.get_num_threads())
    return [*outs, *lses]


def cross_attention_at_once(*args: Any) -> Any:
    """The arguments of :func:`cross_attention`."""
    given = _given_at_once(*args)
    return given and native.module().attention.cross_forward_at_once(given, torch.get_num_threads())


def cross_attention_backward_at_once(
    grad_outs: Any, grad_lses: Any, queries: Any, keys: Any, values: Any, outs: Any, lses: Any, *rest: Any
) -> Any:
    """The arguments of :func:`cross_attention_backward`."""
    *rest, bias_grads = rest  # type: ignore[assignment]
    given = _given_at_once(queries, keys, values, *rest)
    return given and native.module().attention.cross_backward_at_once(
        grad_outs, grad_lses, outs, lses, given, bias_grads, torch.get_num_threads()
    )


def _given_at_once(
    queries: Any, keys: Any, values: Any, counts: Any, masks: Any, mask_tensors: Any, biases: Any, buckets: Any,
    scales: Any, dropout_p: float, seeds: Tensor | None,
) -> tuple[Any, ...] | None:  # fmt: skip
    if any(each is not None for each in buckets) or is_elsewhere(seeds):
        return None
    dropouts = [cpu.dropout_of(dropout_p, seed) for seed in ((None,) * len(queries) if seeds is None else seeds)]
    return queries, keys, values, counts, masks, mask_tensors, biases, dropouts, scales


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
    biases, buckets, dropout_p = rest[3], rest[4], rest[6]
    grad_queries, grad_keys, grad_values = (
        [fresh(empty_like_query(x, x.size(3))) for x in given] for given in (queries, keys, values)
    )
    grad_biases = [cpu.bias_gradient_like(bias, wanted) for bias, wanted in zip(biases, bias_grads, strict=True)]
    sources = list(map(cpu.source_gradient, grad_keys, grad_values, grad_biases, buckets))
    calls, gradients, kept, at = [], [], [], 0
    for i, problem in enumerate(problems(queries, keys, values, *rest)):
        call, keep = _call(problem, outs[i], lses[i], dropout_p)
        end = at + len(problem.sources)
        gradient, also_keep = cpu.problem_gradient(grad_outs[i], grad_lses[i], grad_queries[i], sources[at:end])
        calls.append(call)
        gradients.append(gradient)
        kept.append((keep, also_keep))
        at = end
    native.module().attention.backward(calls, gradients, torch.get_num_threads())
    return [*grad_queries, *grad_keys, *grad_values, *grad_biases]


def _call(problem: Problem, out: Tensor, lse: Tensor, dropout_p: float) -> tuple[tuple[object, ...], object]:
    query, sources, scale, seed = problem
    given, kept = zip(*(cpu.source(query.size(2), *source) for source in sources), strict=True)
    call, also_kept = cpu.problem(query, out, lse, given, sources[0].key.size(1), scale, dropout_p, seed)
    return call, (kept, also_kept)
