"""What is common to all families under torch.compile."""

import pytest
import torch

import xmkern.functional as xf

TWICE = {
    "attention": lambda x: xf.attention(x, x, x),
    "bi_attention": lambda x: xf.bi_attention(x, x, x, x)[0],
    "co_attention": lambda x: xf.co_attention(x, x, x, x, x, x)[0],
    "cross_attention": lambda x: xf.cross_attention(x, [(x, x), (x, x)]),
    "gated_residual": lambda x: xf.gated_residual(x, x),
    "info_nce": lambda x: xf.info_nce(x[0, 0], x[0, 0], 10.0),
    "max_similarity": lambda x: xf.max_similarity(x[0], x[0], reduction="sum"),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_tensor_may_stand_in_two_places(name: str) -> None:
    call = TWICE[name]
    results = []
    for each in (call, torch.compile(call, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(0)
        x = torch.randn(1, 2, 5, 8, requires_grad=True)
        out = each(x)
        results.append((out, *torch.autograd.grad(out.square().sum(), x)))
    torch.testing.assert_close(*results)
