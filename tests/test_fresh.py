import pytest
import torch

from xmkern.ops.fresh import fresh

pytest.importorskip("xmkern._native")


@pytest.mark.parametrize("count", [0, 1, 3 << 20])
def test_it_is_the_same_tensor_with_what_was_in_it(count: int) -> None:
    x = torch.arange(count, dtype=torch.float64)
    expected = x.clone()
    assert fresh(x) is x
    assert torch.equal(x, expected)
