"""The public losses that teach real-valued codes to become bits."""

from typing import Any, Literal

import torch
from torch import Tensor

from xmkern._functional.similarities import check_choice, check_ids, check_matrix, operands
from xmkern.ops.contrastive import Pairs, reduce_similarities
from xmkern.ops.dtype import wide_dtype

_Reduction = Literal["mean", "sum"]


def hash_likelihood(
    f: Tensor,
    g: Tensor,
    *,
    f_ids: Tensor | None = None,
    g_ids: Tensor | None = None,
    relevance: Tensor | None = None,
    quantization: float = 0.0,
    balance: float = 0.0,
    codes: Tensor | tuple[Tensor, Tensor] | None = None,
    reduction: _Reduction = "mean",
    backend: str = "auto",
) -> Tensor:
    """The negative log-likelihood that related pairs of codes have a large product (DCMH: Jiang and Li, 2017).

    The sum over all pairs of log(1 + exp(theta)) - S theta, with theta = f g^T / 2 and S = 1 where the pair is related,
    else 0, plus ``quantization`` times |codes - f|^2 + |codes - g|^2, plus ``balance`` times |sum of the rows of f|^2 +
    |sum of the rows of g|^2. Theta is never made, and no exponential overflows. Memory, of the forward and of what is
    kept for the backward, is that of the arguments and some numbers a row, with ``quantization`` that of the codes too.
    Sums are in float32 for float32, bfloat16 and float16; float64 is served by the reference. Under autocast f and g
    are cast as a matrix product casts them.

    Args:
        f: [B, K], codes of one modality, before the sign is taken.
        g: [N, K], codes of the other.
        f_ids: int64 [B]; pairs of equal ids are related.
        g_ids: int64 [N]; by default those of f.
        relevance: bool [B, N], instead of ids: True where the pair is related.
        quantization: the paper's gamma.
        balance: the paper's eta: how much each bit is to be on in half of the rows.
        codes: [B, K] for both (N = B) or a pair of [B, K] and [N, K], numbers -1 and 1. By default sign(f + g), the
            paper's choice, where row i of f and row i of g are of one sample; zero counts as positive.
        reduction: ``"sum"``, as in the paper, or ``"mean"``: that divided by B * N (0 if there are no pairs).

    Returns:
        The loss in float32 (float64 for float64).

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    matrix = operands(f, g, 0.5, names=("f", "g", "logit_scale"))
    pairs = _related(f_ids, g_ids, relevance, f, g)
    check_choice("reduction", reduction, "mean", "sum")
    loss = reduce_similarities(*matrix, pairs, kind="softplus", columns=False, backend=backend).value.sum()
    sides, dtype = (matrix.x, matrix.y), matrix.x_scale.dtype
    if quantization != 0:
        for side, target in zip(sides, _codes(codes, *sides), strict=True):
            distance = torch.nn.functional.mse_loss(side.to(dtype), target.to(dtype), reduction="sum")
            loss = loss + quantization * distance
    if balance != 0:
        for side in sides:
            loss = loss + balance * side.sum(0, dtype=dtype).square().sum()
    return loss / max(f.shape[0] * g.shape[0], 1) if reduction == "mean" else loss


def cosine_max_margin(
    f: Tensor,
    g: Tensor,
    *,
    margin: float = 0.5,
    f_ids: Tensor | None = None,
    g_ids: Tensor | None = None,
    relevance: Tensor | None = None,
    reduction: _Reduction = "mean",
    backend: str = "auto",
) -> Tensor:
    """relu(margin - s cos(f, g)) over all pairs, s = 1 where related, else -1 (DVSH: Cao et al., 2016).

    Memory and numbers are as in :func:`hash_likelihood`.

    Args:
        f: [B, K], codes before the sign is taken; in DVSH f and g are the same, the fused codes of picture and text.
        g: [N, K].
        margin: the paper's mu_c.
        f_ids: int64 [B]; pairs of equal ids are related.
        g_ids: int64 [N]; by default those of f.
        relevance: bool [B, N], instead of ids: True where the pair is related.
        reduction: ``"sum"``, as in the paper, or ``"mean"``: that divided by B * N (0 if there are no pairs).

    Returns:
        The loss in float32 (float64 for float64).
    """
    matrix = operands(f, g, 1.0, None, True, ("f", "g", "logit_scale"))
    pairs = _related(f_ids, g_ids, relevance, f, g)._replace(x_offset=torch.full_like(matrix.x_scale, margin))
    check_choice("reduction", reduction, "mean", "sum")
    loss = reduce_similarities(*matrix, pairs, kind="margin", columns=False, backend=backend).value.sum()
    return loss / max(f.shape[0] * g.shape[0], 1) if reduction == "mean" else loss


def bitwise_max_margin(h: Tensor, *, margin: float = 0.5, reduction: _Reduction = "mean") -> Tensor:
    """relu(margin - |h|) over all bits: how far the codes are from having a sign to rely on (DVSH: Cao et al., 2016).

    Args:
        h: [B, K], codes before the sign is taken.
        margin: the paper's mu_b.
        reduction: ``"sum"``, as in the paper, or ``"mean"`` over all B * K (0 if there are none).

    Returns:
        The loss in float32 (float64 for float64).
    """
    check_matrix("h", h)
    check_choice("reduction", reduction, "mean", "sum")
    loss = (margin - h.abs()).relu().sum(dtype=wide_dtype(h.dtype))
    return loss / max(h.numel(), 1) if reduction == "mean" else loss


def _related(f_ids: Any, g_ids: Any, relevance: Any, f: Tensor, g: Tensor) -> Pairs:
    B, N = f.shape[0], g.shape[0]
    if relevance is None:
        if f_ids is None:
            raise ValueError("f_ids or relevance must be given")
        return Pairs(check_ids("f_ids", f_ids, B, f), check_ids("g_ids", f_ids if g_ids is None else g_ids, N, f))
    if f_ids is not None or g_ids is not None:
        raise ValueError("f_ids and g_ids must be None where relevance is given")
    if not isinstance(relevance, Tensor) or relevance.dtype != torch.bool:
        kind = relevance.dtype if isinstance(relevance, Tensor) else type(relevance).__name__
        raise TypeError(f"relevance must be a bool tensor, not {kind}")
    if relevance.shape != (B, N):
        raise ValueError(f"relevance must be of shape [{B}, {N}], not {list(relevance.shape)}")
    if relevance.device != f.device:
        raise ValueError(f"relevance must be on {f.device} as f is, not on {relevance.device}")
    return Pairs(relevance=relevance)


def _codes(codes: Any, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    if codes is None:
        if f.shape[0] != g.shape[0]:
            raise ValueError("codes must be given where f and g differ in their number of rows")
        both = torch.where(f.detach() + g.detach() >= 0, 1.0, -1.0)
        return both, both
    pair: tuple[Any, Any] = codes if isinstance(codes, tuple) else (codes, codes)
    for given, of in zip(pair, (f, g), strict=True):
        if not isinstance(given, Tensor):
            raise TypeError(f"codes must be a tensor or a pair of tensors, not {type(given).__name__}")
        if given.shape != of.shape:
            raise ValueError(f"codes must be of shape {list(of.shape)}, not {list(given.shape)}")
    return pair
