"""Forward-mode differentiation, which no kernel has: a tangent is refused or goes on, and is never lost in silence."""

import pytest
import torch
from torch.autograd import forward_ad

import xmkern.functional as xf
from xmkern.functional import StepCoefficients
from xmkern.nn import MultiheadAttention

HEADS = torch.randn(2, 2, 9, 16)
ROWS, OTHERS, WEIGHT = torch.randn(6, 32), torch.randn(6, 32), torch.randn(32)
TOKENS = torch.randn(3, 5, 32)

CALLS = {
    "attention": lambda x: xf.attention(x(HEADS), HEADS, HEADS),
    "attention of a bias": lambda x: xf.attention(HEADS, HEADS, HEADS, bias=x(torch.randn(9, 9))),
    "scaled_dot_product_attention": lambda x: xf.scaled_dot_product_attention(x(HEADS), HEADS, HEADS),
    "cross_attention": lambda x: xf.cross_attention(HEADS, [(x(HEADS), HEADS), (HEADS, HEADS)]),
    "co_attention": lambda x: xf.co_attention(x(HEADS), HEADS, HEADS, HEADS, HEADS, HEADS)[0],
    "bi_attention": lambda x: xf.bi_attention(x(TOKENS), TOKENS, TOKENS, TOKENS)[0],
    "MultiheadAttention": lambda x: MultiheadAttention(32, 4).requires_grad_(False)(*[x(TOKENS)] * 3)[0],
    "add_layer_norm": lambda x: xf.add_layer_norm(x(ROWS), OTHERS, WEIGHT, WEIGHT),
    "gated_residual": lambda x: xf.gated_residual(ROWS, OTHERS, x(WEIGHT)),
    "bias_activation": lambda x: xf.bias_activation(x(ROWS), WEIGHT),
    "linear": lambda x: xf.linear(x(torch.randn(512, 64)), torch.randn(512, 64)),
    "linear of a few rows": lambda x: xf.linear(x(ROWS), torch.randn(16384, 32)),
    "linear by ours": lambda x: xf.linear(x(ROWS), OTHERS, backend="cpu"),
    "info_nce": lambda x: xf.info_nce(x(ROWS), OTHERS, 3.0),
    "info_nce, each": lambda x: xf.info_nce(x(ROWS), OTHERS, 3.0, reduction="none"),
    "sigmoid_contrastive": lambda x: xf.sigmoid_contrastive(x(ROWS), OTHERS, torch.tensor(3.0), torch.tensor(-1.0)),
    "distillation": lambda x: xf.distillation(x(ROWS), OTHERS, 3.0, OTHERS, ROWS, 2.0),
    "ranking_loss": lambda x: xf.ranking_loss(x(ROWS), OTHERS, margin=0.2),
    "max_similarity": lambda x: xf.max_similarity(x(TOKENS), TOKENS, reduction="sum"),
    "late_interaction_info_nce": lambda x: xf.late_interaction_info_nce(x(TOKENS), TOKENS, 3.0),
    "damsm_scores": lambda x: xf.damsm_scores(x(TOKENS), TOKENS, torch.tensor([5, 3, 2])),
    "optimal_transport_alignment": lambda x: xf.optimal_transport_alignment(x(TOKENS), TOKENS),
    "diffusion_step": lambda x: xf.diffusion_step(x(ROWS), OTHERS, StepCoefficients(1.0, 0.5, original=1.0))[0],
    "q_sample": lambda x: xf.q_sample(x(ROWS), torch.arange(6), torch.rand(10), OTHERS)[0],
}


@pytest.mark.parametrize("name", CALLS)
def test_no_tangent_is_lost(name):
    with forward_ad.dual_level():
        try:
            out = CALLS[name](lambda x: forward_ad.make_dual(x, torch.ones_like(x)))
        except NotImplementedError:
            return
        assert forward_ad.unpack_dual(out).tangent is not None


def test_a_level_without_tangents_changes_nothing():
    want = xf.attention(HEADS, HEADS, HEADS)
    with forward_ad.dual_level():
        assert torch.equal(xf.attention(HEADS, HEADS, HEADS), want)
