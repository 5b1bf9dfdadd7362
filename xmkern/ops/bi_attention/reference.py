"""What attention both ways and additive pooling mean, in plain PyTorch, with every matrix written out. Named axes:
README.md of this folder.

Matrices are multiplied in the inputs' own dtype, as a model in eager PyTorch does; affinities, softmaxes and what they
are made of are in float32, or float64 where the inputs are.
"""

import torch
from torch import Tensor

from xmkern.ops.attention.layout import empty_like_query
from xmkern.ops.dtype import wide_dtype


def bi_attention(
    a: Tensor,
    b: Tensor,
    v_a: Tensor,
    v_b: Tensor,
    mask_a: Tensor | None,
    mask_b: Tensor | None,
    scale: float,
    tanh: bool,
    softmax: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> out_a [B, H, L, Db], out_b [B, H, S, Da], lse_a [B, H, L], lse_b [B, H, S] (of no elements without softmax)"""
    with torch.autocast(a.device.type, enabled=False):
        a, v_a, b, v_b = _there(a, mask_a), _there(v_a, mask_a), _there(b, mask_b), _there(v_b, mask_b)
        c = _affinities(a, b, scale, tanh)
        p_a = p_b = c
        lse_a = lse_b = c.new_empty(0)
        if softmax:
            c = _hide(c, mask_a, mask_b)
            lse_a, lse_b = c.logsumexp(3), c.logsumexp(2)
            p_a, p_b = _shares(c, lse_a[..., None], 3), _shares(c, lse_b[..., None, :], 2)
        out_a, out_b = p_a.to(v_b.dtype) @ v_b, p_b.to(v_a.dtype).mT @ v_a
        return _like(_there(out_a, mask_a), a), _like(_there(out_b, mask_b), b), lse_a, lse_b


def bi_attention_backward(
    grad_out_a: Tensor,
    grad_out_b: Tensor,
    a: Tensor,
    b: Tensor,
    v_a: Tensor,
    v_b: Tensor,
    mask_a: Tensor | None,
    mask_b: Tensor | None,
    out_a: Tensor,
    out_b: Tensor,
    lse_a: Tensor,
    lse_b: Tensor,
    scale: float,
    tanh: bool,
    softmax: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> the gradients of a, b, v_a, v_b; the affinities are computed again"""
    with torch.autocast(a.device.type, enabled=False):
        a, v_a, grad_out_a = _there(a, mask_a), _there(v_a, mask_a), _there(grad_out_a, mask_a)
        b, v_b, grad_out_b = _there(b, mask_b), _there(v_b, mask_b), _there(grad_out_b, mask_b)
        c = _affinities(a, b, scale, tanh)
        wide = c.dtype
        grad_p_a, grad_p_b = (grad_out_a @ v_b.mT).to(wide), (v_a @ grad_out_b.mT).to(wide)
        p_a = p_b = c
        grad_c = grad_p_a + grad_p_b
        if softmax:
            hidden = _hide(c, mask_a, mask_b)
            p_a, p_b = _shares(hidden, lse_a[..., None], 3), _shares(hidden, lse_b[..., None, :], 2)
            delta_a = (grad_out_a.to(wide) * out_a.to(wide)).sum(3)[..., None]
            delta_b = (grad_out_b.to(wide) * out_b.to(wide)).sum(3)[..., None, :]
            grad_c = p_a * (grad_p_a - delta_a) + p_b * (grad_p_b - delta_b)
        if tanh:
            grad_c = grad_c * (1 - c.square())
        grad_c = (grad_c * scale).to(a.dtype)
        grad_v_a, grad_v_b = p_b.to(v_a.dtype) @ grad_out_b, p_a.to(v_b.dtype).mT @ grad_out_a
        of_a = (_like(_there(grad, mask_a), x) for grad, x in ((grad_c @ b, a), (grad_v_a, v_a)))
        of_b = (_like(_there(grad, mask_b), x) for grad, x in ((grad_c.mT @ a, b), (grad_v_b, v_b)))
        (grad_a, grad_v_a), (grad_b, grad_v_b) = of_a, of_b
        return grad_a, grad_b, grad_v_a, grad_v_b


def _affinities(a: Tensor, b: Tensor, scale: float, tanh: bool) -> Tensor:
    """C [B, H, L, S]"""
    c = (a @ b.mT).to(wide_dtype(a.dtype)) * scale
    return c.tanh() if tanh else c


def _there(x: Tensor, mask: Tensor | None) -> Tensor:
    """x [B, H, N, ...] with zeros for the rows that the mask [B, N] hides"""
    return x if mask is None else torch.where(mask[:, None, :, None], x, 0)


def _hide(c: Tensor, mask_a: Tensor | None, mask_b: Tensor | None) -> Tensor:
    """C with -inf in the rows and the columns that are hidden"""
    if mask_a is not None:
        c = c.masked_fill(~mask_a[:, None, :, None], -torch.inf)
    if mask_b is not None:
        c = c.masked_fill(~mask_b[:, None, None, :], -torch.inf)
    return c


def _shares(c: Tensor, lse: Tensor, dim: int) -> Tensor:
    """softmax along ``dim``, zeros where there is nothing to share in"""
    return c.softmax(dim).masked_fill(lse == -torch.inf, 0)


def _like(result: Tensor, x: Tensor) -> Tensor:
    return empty_like_query(x, result.shape[3]).copy_(result)


def additive_pool(
    x: Tensor, hidden: Tensor, guide: Tensor | None, weight: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """-> the pooled rows [B, D] of x, and the shares [B, N] in them"""
    with torch.autocast(x.device.type, enabled=False):
        if mask is not None:
            x = torch.where(mask[..., None], x, 0)
        logits = (_tanh(hidden, guide).to(weight.dtype) @ weight).to(wide_dtype(x.dtype))
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        shares = _shares(logits, logits.logsumexp(1, keepdim=True), 1)
        return (shares.to(x.dtype)[:, None] @ x)[:, 0], shares


def additive_pool_backward(
    grad_pooled: Tensor,
    grad_shares: Tensor,
    x: Tensor,
    hidden: Tensor,
    guide: Tensor | None,
    weight: Tensor,
    mask: Tensor | None,
    shares: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> the gradients of x, hidden, guide ([0] where that is hidden's own, or there is none), weight"""
    with torch.autocast(x.device.type, enabled=False):
        if mask is not None:
            x, hidden = torch.where(mask[..., None], x, 0), torch.where(mask[..., None], hidden, 0)
            if guide is not None and guide.shape[1] != 1:
                guide = torch.where(mask[..., None], guide, 0)
        grad_x = shares.to(x.dtype)[..., None] * grad_pooled[:, None]
        grad = (x @ grad_pooled[..., None])[..., 0].to(shares.dtype) + grad_shares
        grad_logits = (shares * (grad - (shares * grad).sum(1, keepdim=True))).to(weight.dtype)
        tanh = _tanh(hidden, guide)
        grad_weight = grad_logits.flatten() @ tanh.to(weight.dtype).flatten(0, 1)
        grad_hidden = grad_logits.to(shares.dtype)[..., None] * weight.to(shares.dtype) * (1 - tanh.square())
        grad_guide = hidden.new_empty(0)
        if guide is not None and guide.shape[1] == 1:
            grad_guide = grad_hidden.sum(1, keepdim=True).to(hidden.dtype)
        return grad_x, grad_hidden.to(hidden.dtype), grad_guide, grad_weight


def _tanh(hidden: Tensor, guide: Tensor | None) -> Tensor:
    wide = wide_dtype(hidden.dtype)
    return (hidden.to(wide) if guide is None else hidden.to(wide) + guide.to(wide)).tanh()
