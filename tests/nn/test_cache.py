"""Keys and values that a decoder remembers."""

import pytest
import torch

from xmkern.nn import KeyValueCache


def test_tokens_come_back_in_order():
    cache, tokens = KeyValueCache(), torch.randn(2, 3, 11, 4)
    for begin, end in ((0, 1), (1, 2), (2, 7), (7, 11)):
        key, value = cache.append(tokens[:, :, begin:end], tokens[:, :, begin:end, :2])
        assert torch.equal(key, tokens[:, :, :end])
        assert torch.equal(value, tokens[:, :, :end, :2])
    cache.select(torch.tensor([1, 1, 0]))
    key, _ = cache.append(torch.zeros(3, 3, 1, 4), torch.zeros(3, 3, 1, 2))
    assert torch.equal(key[:, :, :-1], tokens[[1, 1, 0]])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (torch.ones(3, 2, 1, 4), torch.ones(3, 2, 1, 4), r"key must be \[2, 2, 'L', 4\]"),
        (torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4), "key must be"),
        (torch.ones(2, 2, 1, 4), torch.ones(2, 2, 1, 5), "value must be"),
        (torch.ones(2, 2, 1, 4), torch.ones(2, 2, 2, 4), r"value must be \[B, H, L, Dv\]"),
        (torch.ones(2, 2, 1, 4).bfloat16(), torch.ones(2, 2, 1, 4), "not .* of torch.bfloat16"),
    ],
)
def test_other_tokens_are_refused_and_change_nothing(key, value, words):
    cache, one = KeyValueCache(), torch.ones(2, 2, 1, 4)
    cache.append(one, one)
    with pytest.raises(ValueError, match=words):
        cache.append(key, value)
    kept, _ = cache.append(one, one)
    assert torch.equal(kept, torch.ones(2, 2, 2, 4))
