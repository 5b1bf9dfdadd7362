"""The public call of attention both ways."""

from typing import Any, Literal

import torch
from torch import Tensor

from xmkern._functional.attention import check_scale
from xmkern._functional.similarities import autocast
from xmkern.ops.bi_attention import bi_attention as _attend

_DTYPES = {torch.float32, torch.bfloat16, torch.float16, torch.float64}
_AFFINITIES = {"dot": False, "tanh": True}


def bi_attention(
    a: Tensor,
    b: Tensor,
    v_a: Tensor,
    v_b: Tensor,
    *,
    mask_a: Tensor | None = None,
    mask_b: Tensor | None = None,
    affinity: Literal["dot", "tanh"] = "dot",
    normalize: Literal["softmax"] | None = "softmax",
    scale: float | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Two sequences attend to each other by one matrix of affinities, which is computed once and never formed.

    With C = scale * a b^T, or its tanh::

        out_a = softmax(C, over the rows of b) v_b        out_b = softmax(C, over the rows of a)^T v_a

    as in Dynamic Coattention Networks (Xiong et al., 2017) and in the mirrored matching of R3Net and M-VAM; without
    normalization out_a = C v_b and out_b = C^T v_a, which with tanh is the parallel co-attention of Lu et al.
    (2016), eq. 3 and 4 (its pooled form is :func:`parallel_co_attention`). A learned bilinear affinity a W b^T is
    that of a W and b. Memory, of the forward and of what is kept for the backward, grows with L and S, not with
    their product. Sums are in float32 for float32, bfloat16 and float16; float64 is served by the reference. Under
    autocast all four are cast.

    Args:
        a: [B, H, L, D], or [B, L, D] where there are no heads, and then likewise for the others.
        b: [B, H, S, D].
        v_a: [B, H, L, Da].
        v_b: [B, H, S, Db].
        mask_a: which rows of a and v_a there are: bool [B, L], or integers [B], of how many of the first that holds.
            The others take no part: no row attends to them, and their own outputs and gradients are zeros.
        mask_b: likewise of b and v_b, bool [B, S] or integers [B].
        affinity: ``"dot"`` or ``"tanh"``.
        normalize: ``"softmax"``, or None.
        scale: by default 1 / sqrt(D) for ``"dot"`` and 1 for ``"tanh"``.

    Returns:
        out_a [B, H, L, Db], out_b [B, H, S, Da], in the memory order of a and b. A row that can attend to nothing gets
        zeros; its gradients are zeros.

    Raises:
        ValueError, TypeError: name the argument, what it should be and what it was.
    """
    _check(a, b, v_a, v_b)
    if torch._C._is_any_autocast_enabled():
        a, b, v_a, v_b = autocast(a), autocast(b), autocast(v_a), autocast(v_b)
    if a.dtype not in _DTYPES or not a.dtype == b.dtype == v_a.dtype == v_b.dtype:
        raise TypeError(
            "a, b, v_a and v_b must be of one dtype, float32, bfloat16, float16 or float64, "
            f"not {a.dtype}, {b.dtype}, {v_a.dtype} and {v_b.dtype}"
        )
    if affinity not in _AFFINITIES:
        raise ValueError(f"affinity must be 'dot' or 'tanh', not {affinity!r}")
    if normalize not in ("softmax", None):
        raise ValueError(f"normalize must be 'softmax' or None, not {normalize!r}")
    if scale is None:
        scale = 1.0 if affinity == "tanh" else a.shape[-1] ** -0.5
    else:
        scale = check_scale(scale, "a")
    mask_a, mask_b = rows_there("mask_a", mask_a, a), rows_there("mask_b", mask_b, b)
    headless = a.dim() == 3
    if headless:
        a, b, v_a, v_b = a.unsqueeze(1), b.unsqueeze(1), v_a.unsqueeze(1), v_b.unsqueeze(1)
    out_a, out_b = _attend(a, b, v_a, v_b, mask_a, mask_b, scale, _AFFINITIES[affinity], normalize is not None, backend)
    return (out_a.squeeze(1), out_b.squeeze(1)) if headless else (out_a, out_b)


def rows_there(name: str, mask: Any, x: Tensor) -> Tensor | None:
    """The mask of the rows of x [B, ..., N, D] as bool [B, N], from that or from how many there are, [B]"""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(mask).__name__}")
    B, N = x.shape[0], x.shape[-2]
    if mask.device != x.device:
        raise ValueError(f"{name} must be on {x.device} as what it masks is, not on {mask.device}")
    if mask.dtype == torch.bool:
        if mask.shape != (B, N):
            raise ValueError(
                f"{name} must be bool of shape {[B, N]} or integers of shape {[B]}, not {list(mask.shape)}"
            )
        return mask
    if mask.is_floating_point() or mask.is_complex():
        raise TypeError(f"{name} must be bool or of integers, not {mask.dtype}")
    if mask.shape != (B,):
        raise ValueError(f"{name} must be bool of shape {[B, N]} or integers of shape {[B]}, not {list(mask.shape)}")
    return torch.arange(N, device=x.device) < mask[:, None]


def _check(a: Any, b: Any, v_a: Any, v_b: Any) -> None:
    """A few comparisons where all is well, a sentence where it is not."""
    try:
        *lead, L, D = a.shape
        *lead_b, S, D_b = b.shape
        fit = (
            len(lead) in (1, 2)
            and lead == lead_b
            and D_b == D
            and D > 0
            and (*lead, L) == v_a.shape[:-1]
            and (*lead, S) == v_b.shape[:-1]
            and a.device == b.device == v_a.device == v_b.device
            and a.layout == b.layout == v_a.layout == v_b.layout == torch.strided
            and v_a.shape[-1] > 0
            and v_b.shape[-1] > 0
        )
    except (AttributeError, ValueError, RuntimeError, IndexError):  # a nested tensor may have no shape
        fit = False
    if not fit:
        _complain(a, b, v_a, v_b)


def _complain(a: Any, b: Any, v_a: Any, v_b: Any) -> None:
    for name, x, axes in (("a", a, "L, D"), ("b", b, "S, D"), ("v_a", v_a, "L, Da"), ("v_b", v_b, "S, Db")):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor, not {type(x).__name__}")
        if x.is_nested or x.layout != torch.strided:
            raise TypeError(f"{name} must be dense: pad it, and hide the padding by the mask")
        if x.dim() not in (3, 4) or x.shape[-1] == 0:
            raise ValueError(f"{name} must have the axes [B, H, {axes}] or [B, {axes}], not shape {list(x.shape)}")
        if x.device != a.device:
            raise ValueError(f"{name} must be on {a.device} as a is, not on {x.device}")
    if b.dim() != a.dim() or b.shape[:-2] != a.shape[:-2] or b.shape[-1] != a.shape[-1]:
        wanted = [*a.shape[:-2], "S", a.shape[-1]]
        raise ValueError(f"b must be of shape {wanted} beside a of {list(a.shape)}, not {list(b.shape)}")
    for name, x, key in (("v_a", v_a, a), ("v_b", v_b, b)):
        if x.shape[:-1] != key.shape[:-1]:
            wanted = [*key.shape[:-1], f"D{name[-1]}"]
            raise ValueError(f"{name} must be of shape {wanted}, not {list(x.shape)}")
