"""BiAttention against the same parameters in plain PyTorch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nn.twins import assert_twins_agree, twins
from xmkern.nn import BiAttention


class Plain(BiAttention):
    def forward(self, a, b, mask_a=None, mask_b=None):
        (key_a, value_a), (key_b, value_b) = (
            (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in projected.chunk(2, -1))
            for projected in (self.project_a(a), self.project_b(b))
        )
        scores = key_a @ key_b.mT
        scores = scores.tanh() if self.affinity == "tanh" else scores / key_a.shape[-1] ** 0.5
        rows = torch.ones(a.shape[:2], dtype=torch.bool) if mask_a is None else mask_a
        columns = torch.ones(b.shape[:2], dtype=torch.bool) if mask_b is None else mask_b
        hidden = ~(rows[:, None, :, None] & columns[:, None, None])
        if self.normalize is None:
            of_a = of_b = scores.masked_fill(hidden, 0)
        else:
            least = torch.finfo(scores.dtype).min
            of_a, of_b = (scores.masked_fill(hidden, least).softmax(axis).masked_fill(hidden, 0) for axis in (-1, -2))
        merged = [(x.transpose(1, 2).flatten(2)) for x in (of_a @ value_b, of_b.mT @ value_a)]
        return self.out_a(merged[0]), self.out_b(merged[1])


@settings(max_examples=30)
@given(st.data())
def test_matches_plain_pytorch(data):
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    B, L, S, heads = (data.draw(st.integers(1, most)) for most in (3, 7, 7, 3))
    dims = data.draw(st.integers(2, 9)), data.draw(st.integers(2, 9))
    options = {
        "affinity": data.draw(st.sampled_from(["dot", "tanh"])),
        "normalize": data.draw(st.sampled_from(["softmax", None])),
        "attention_dim": heads * data.draw(st.integers(1, 4)),
    }
    pair = twins(BiAttention, Plain, *dims, heads, **options)
    inputs = {"a": torch.randn(B, L, dims[0], requires_grad=True), "b": torch.randn(B, S, dims[1], requires_grad=True)}
    for name, length in (("mask_a", L), ("mask_b", S)):
        if data.draw(st.booleans()):
            inputs[name] = torch.rand(B, length) < 0.7
    assert_twins_agree(*pair, inputs)


def test_lengths_and_bools_are_one():
    module, a, b = BiAttention(8, 6, 2), torch.randn(2, 5, 8), torch.randn(2, 7, 6)
    lengths = torch.tensor([5, 2]), torch.tensor([3, 7])
    by_bool = [torch.arange(n) < length[:, None] for n, length in zip((5, 7), lengths, strict=True)]
    torch.testing.assert_close(module(a, b, *lengths), module(a, b, *by_bool))


def test_compiles_in_one_piece():
    module, inputs = BiAttention(8, 6, 2), (torch.randn(2, 5, 8), torch.randn(2, 7, 6))
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(*inputs), module(*inputs))


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="num_heads must divide attention_dim = 8, not 3"):
        BiAttention(8, 6, 3)
