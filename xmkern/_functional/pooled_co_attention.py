"""The public calls of co-attention that pools each of two sequences into a vector."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from xmkern._functional.bi_attention import bi_attention, rows_there
from xmkern._functional.similarities import autocast
from xmkern.ops.bi_attention import additive_pool

_DTYPES = {torch.float32, torch.bfloat16, torch.float16, torch.float64}


class Pooled(NamedTuple):
    """What co-attention leaves of two sequences: a vector of each, and the weights [B, L] and [B, S] of their rows."""

    a: Tensor
    b: Tensor
    weights_a: Tensor
    weights_b: Tensor


def parallel_co_attention(
    a: Tensor,
    b: Tensor,
    affinity_a: Tensor,
    affinity_b: Tensor,
    hidden_a: Tensor,
    hidden_b: Tensor,
    weight_a: Tensor,
    weight_b: Tensor,
    *,
    mask_a: Tensor | None = None,
    mask_b: Tensor | None = None,
    backend: str = "auto",
) -> Pooled:
    """Parallel co-attention (Lu et al., 2016, "Hierarchical Question-Image Co-Attention", eq. 3 to 5)::

        C   = tanh(affinity_a affinity_b^T)                                            [B, L, S], never formed
        w_a = softmax(tanh(hidden_a + C   hidden_b) weight_a),   pooled a = sum of w_a a
        w_b = softmax(tanh(hidden_b + C^T hidden_a) weight_b),   pooled b = sum of w_b b

    The projections are the caller's: for the questions Q and the image V of the paper, with its weights, a = Q, b = V,
    affinity_a = Q W_b, affinity_b = V, hidden_a = W_q Q, hidden_b = W_v V, weight_a = w_hq, weight_b = w_hv. Its word,
    phrase and question levels are three calls. Sums, tanh and softmax are in float32 (float64 for float64). Under
    autocast all tensors are cast.

    Args:
        a: [B, L, Da], whose rows are pooled.
        b: [B, S, Db].
        affinity_a: [B, L, D].
        affinity_b: [B, S, D].
        hidden_a: [B, L, K], a bias included if there is one.
        hidden_b: [B, S, K].
        weight_a: [K].
        weight_b: [K].
        mask_a: which rows of a there are: bool [B, L], or integers [B], of how many of the first that holds. The
            others take no part: their weights and gradients are zeros.
        mask_b: likewise of b, bool [B, S] or integers [B].

    Returns:
        The pooled a [B, Da] and b [B, Db], and the weights of their rows, [B, L] and [B, S], float32 (float64 for
        float64); differentiable all four. Of a sequence without rows, zeros.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    _check_rows(("a", a), ("hidden_a", hidden_a))
    _check_rows(("b", b), ("hidden_b", hidden_b))
    names = ("a", "b", "affinity_a", "affinity_b", "hidden_a", "hidden_b", "weight_a", "weight_b")
    given = (a, b, affinity_a, affinity_b, hidden_a, hidden_b, weight_a, weight_b)
    a, b, affinity_a, affinity_b, hidden_a, hidden_b, weight_a, weight_b = _one_dtype(names, given)
    _check_shape("weight_a", weight_a, (hidden_a.shape[2],), "[K]")
    _check_shape("weight_b", weight_b, (hidden_a.shape[2],), "[K]")
    _check_shape("hidden_b", hidden_b, (*b.shape[:2], hidden_a.shape[2]), "[B, S, K]")
    for name, x, key in (("affinity_a", affinity_a, a), ("affinity_b", affinity_b, b)):
        _check_shape(name, x, (*key.shape[:2], affinity_a.shape[-1]), f"[B, {'L' if key is a else 'S'}, D]")
    mask_a, mask_b = rows_there("mask_a", mask_a, a), rows_there("mask_b", mask_b, b)
    guide_a, guide_b = bi_attention(
        affinity_a, affinity_b, hidden_a, hidden_b, mask_a=mask_a, mask_b=mask_b, affinity="tanh", normalize=None,
        backend=backend,
    )  # fmt: skip
    pooled_a, weights_a = additive_pool(a, hidden_a, guide_a, weight_a, mask_a, backend)
    pooled_b, weights_b = additive_pool(b, hidden_b, guide_b, weight_b, mask_b, backend)
    return Pooled(pooled_a, pooled_b, weights_a, weights_b)


def alternating_co_attention(
    a: Tensor,
    b: Tensor,
    hidden: Sequence[Tensor],
    guides: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    mask_a: Tensor | None = None,
    mask_b: Tensor | None = None,
    backend: str = "auto",
) -> Pooled:
    """Alternating co-attention (Lu et al., 2016, "Hierarchical Question-Image Co-Attention", eq. 6)::

        s = A(a; 0),   pooled b = A(b; s),   pooled a = A(a; pooled b),   where
        A(x; g) = sum over rows of w x with w = softmax(tanh(hidden + guide g) weight)

    with projections, guides and weights of their own in each of the three steps; a is the question in the paper and b
    the image. hidden = W_x X is the caller's, g is a vector: its projection is done here. Sums, tanh and softmax are
    in float32 (float64 for float64). Under autocast all tensors are cast.

    Args:
        a: [B, L, Da], whose rows are pooled.
        b: [B, S, Db].
        hidden: projections of a [B, L, K], b [B, S, K], a [B, L, K], a bias included if there is one.
        guides: the weights W_g of the second and the third step, [K, Da] and [K, Db].
        weights: [K], three of them.
        mask_a: which rows of a there are: bool [B, L], or integers [B], of how many of the first that holds. The
            others take no part: their weights and gradients are zeros.
        mask_b: likewise of b, bool [B, S] or integers [B].

    Returns:
        The pooled a [B, Da] and b [B, Db], and the last weights of their rows, [B, L] and [B, S], float32 (float64 for
        float64); differentiable all four. Of a sequence without rows, zeros.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    for name, given, count in (("hidden", hidden, 3), ("guides", guides, 2), ("weights", weights, 3)):
        if len(given) != count:
            raise ValueError(f"{name} must be {count} tensors, not {len(given)}")
    rows = ((a, "a"), (b, "b"), (a, "a"))
    for i, ((x, name), each) in enumerate(zip(rows, hidden, strict=True)):
        _check_rows((name, x), (f"hidden[{i}]", each))
    names = (
        "a",
        "b",
        *(f"hidden[{i}]" for i in range(3)),
        "guides[0]",
        "guides[1]",
        *(f"weights[{i}]" for i in range(3)),
    )
    a, b, *rest = _one_dtype(names, (a, b, *hidden, *guides, *weights))
    hidden, guides, weights = rest[:3], rest[3:5], rest[5:]
    K = hidden[0].shape[2]
    for i, (x, each) in enumerate(zip((a, b, a), hidden, strict=True)):
        _check_shape(f"hidden[{i}]", each, (*x.shape[:2], K), "[B, S, K]" if i == 1 else "[B, L, K]")
        _check_shape(f"weights[{i}]", weights[i], (K,), "[K]")
    _check_shape("guides[0]", guides[0], (K, a.shape[2]), "[K, Da]")
    _check_shape("guides[1]", guides[1], (K, b.shape[2]), "[K, Db]")
    mask_a, mask_b = rows_there("mask_a", mask_a, a), rows_there("mask_b", mask_b, b)

    summary, _ = additive_pool(a, hidden[0], None, weights[0], mask_a, backend)
    pooled_b, weights_b = additive_pool(b, hidden[1], linear(summary, guides[0])[:, None], weights[1], mask_b, backend)
    pooled_a, weights_a = additive_pool(a, hidden[2], linear(pooled_b, guides[1])[:, None], weights[2], mask_a, backend)
    return Pooled(pooled_a, pooled_b, weights_a, weights_b)


def _check_rows(*named: tuple[str, Any]) -> None:
    """Rows of a sequence, and what there is of each of them"""
    for name, x in named:
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor, not {type(x).__name__}")
        if x.dim() != 3 or x.shape[2] == 0:
            raise ValueError(f"{name} must have three axes, the last of at least 1, not shape {list(x.shape)}")


def _check_shape(name: str, x: Tensor, shape: tuple[int, ...], axes: str) -> None:
    if x.shape != shape:
        raise ValueError(f"{name} must have the axes {axes} = {list(shape)}, not {list(x.shape)}")


def _one_dtype(names: Sequence[str], tensors: Sequence[Any]) -> list[Tensor]:
    for name, x in zip(names, tensors, strict=True):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor, not {type(x).__name__}")
        if x.device != tensors[0].device:
            raise ValueError(f"{name} must be on {tensors[0].device} as a is, not on {x.device}")
    cast = [autocast(x) for x in tensors]
    for name, x in zip(names, cast, strict=True):
        if x.dtype not in _DTYPES or x.dtype != cast[0].dtype:
            raise TypeError(
                f"{name} must be of a's dtype, float32, bfloat16, float16 or float64, "
                f"not {x.dtype} beside {cast[0].dtype}"
            )
    return cast
