"""Lu et al., 2016, "Hierarchical Question-Image Co-Attention", equations 3 to 6, one after the other."""

import torch
from torch import Tensor


def parallel(q: Tensor, v: Tensor, w_b: Tensor, w_q: Tensor, w_v: Tensor, w_hq: Tensor, w_hv: Tensor) -> list[Tensor]:
    """q [B, T, D], v [B, N, D], w_b [D, D], w_q and w_v [K, D], w_hq and w_hv [K]. The paper has columns for rows."""
    q, v = q.mT, v.mT
    c = torch.tanh(q.mT @ w_b @ v)
    h_v = torch.tanh(w_v @ v + (w_q @ q) @ c)
    h_q = torch.tanh(w_q @ q + (w_v @ v) @ c.mT)
    a_v, a_q = (w_hv @ h_v).softmax(-1), (w_hq @ h_q).softmax(-1)
    return [(a_q[:, None] * q).sum(-1), (a_v[:, None] * v).sum(-1), a_q, a_v]


def attend(x: Tensor, g: Tensor | None, w_x: Tensor, w_g: Tensor | None, w_hx: Tensor) -> tuple[Tensor, Tensor]:
    """x [B, N, D], g [B, D] -> A(x; g), and its weights"""
    h = x @ w_x.mT
    if g is not None and w_g is not None:
        h = h + (g @ w_g.mT)[:, None]
    a = (torch.tanh(h) @ w_hx).softmax(-1)
    return (a[..., None] * x).sum(1), a


def alternating(
    q: Tensor, v: Tensor, w_x: list[Tensor], w_g: list[Tensor], w_hx: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    s, _ = attend(q, None, w_x[0], None, w_hx[0])
    v_hat, a_v = attend(v, s, w_x[1], w_g[0], w_hx[1])
    q_hat, a_q = attend(q, v_hat, w_x[2], w_g[1], w_hx[2])
    return q_hat, v_hat, a_q, a_v
