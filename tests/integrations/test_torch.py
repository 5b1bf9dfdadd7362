"""torch's attention by ours while it is asked for."""

import pytest
import torch
from torch.nn import functional as F

from xmkern.integrations.torch import scaled_dot_product_attention


def attend(**options):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 6, 8).requires_grad_().unbind()
    out = F.scaled_dot_product_attention(q, k, v, **options)
    return out, *torch.autograd.grad(out.square().sum(), [q, k, v])


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"attn_mask": torch.eye(6).bool(), "scale": 0.3}])
def test_calls_are_served(options):
    theirs, expected = F.scaled_dot_product_attention, attend(**options)
    with scaled_dot_product_attention() as served:
        found = attend(**options)
        assert "Attention" in found[0].grad_fn.name()
        assert served.calls == 1
    assert F.scaled_dot_product_attention is theirs
    torch.testing.assert_close(found, expected)


def test_layers_of_torch_come_by():
    torch.manual_seed(0)
    layer = torch.nn.MultiheadAttention(8, 2)
    x = torch.randn(5, 3, 8)
    expected = layer(x, x, x, need_weights=False)[0]
    with scaled_dot_product_attention() as served:
        torch.testing.assert_close(layer(x, x, x, need_weights=False)[0], expected)
    assert (served.calls, served.left) == (1, 0)


def test_other_devices_are_left():
    q = torch.empty(1, 1, 2, 4, device="meta")
    with pytest.raises(RuntimeError, match=r"no call .* on the CPU came .* and 1 on other devices"):  # noqa: SIM117
        with scaled_dot_product_attention():
            assert F.scaled_dot_product_attention(q, q, q).is_meta


def test_an_error_inside_is_not_hidden():
    theirs = F.scaled_dot_product_attention
    with pytest.raises(ZeroDivisionError), scaled_dot_product_attention():
        1 / 0  # noqa: B018
    assert F.scaled_dot_product_attention is theirs
