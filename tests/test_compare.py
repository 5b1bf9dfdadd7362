"""The rule by which a kernel counts as right must itself refuse what is wrong."""

import pytest
import torch

from xmkern.testing import assert_matches_reference


def product(a, b):
    return a @ b


def matrices(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(8, 64, generator=generator).to(dtype), torch.randn(64, 8, generator=generator).to(dtype))
    return {"a": a.requires_grad_(), "b": b.requires_grad_()}


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        return grad @ b.t() * 1.01, a.t() @ grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_order_of_summation_passes(dtype):
    assert_matches_reference(lambda a, b: (b.t() @ a.t()).t(), matrices(dtype), reference=product)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda a, b: product(a, b) * 1.001, "output 0: error"),
        (lambda a, b: product(a, b).double(), "output 0: dtype"),
        (lambda a, b: product(a, b)[1:], "output 0: shape"),
        (lambda a, b: product(a, b) + torch.tensor([float("nan")]), "infinities or NaNs"),
        (lambda a, b: product(a.bfloat16(), b.bfloat16()).float(), "output 0: error"),
        (lambda a, b: product(a.detach(), b), "gradient of a: error"),
        (WrongGradient.apply, "gradient of a: error"),
        (lambda a, b: (product(a, b), a), "differ in kind"),
    ],
)
def test_what_is_wrong_fails(wrong, words):
    with pytest.raises(AssertionError, match=words):
        assert_matches_reference(wrong, matrices(), reference=product)


def test_integers_must_be_equal():
    x = {"x": torch.arange(5)}
    assert_matches_reference(lambda x: x + x, x, reference=lambda x: 2 * x)
    with pytest.raises(AssertionError, match="1 of 5 differ, the first at \\[4\\]"):
        assert_matches_reference(lambda x: (2 * x).clamp(max=7), x, reference=lambda x: 2 * x)


def test_a_function_needs_a_reference():
    with pytest.raises(ValueError, match="reference must be given"):
        assert_matches_reference(product, matrices())
