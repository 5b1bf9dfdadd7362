"""What late interaction does with its arguments: errors by name, meta tensors."""

from functools import partial

import pytest
import torch

import xmkern.functional as xf


def tensors(*shapes, dtype=torch.float32, grad=False):
    torch.manual_seed(0)
    return [torch.randn(shape).to(dtype).requires_grad_(grad) for shape in shapes]


def test_meta_tensors_give_meta_tensors():
    x, y = (torch.empty(3, n, 8, device="meta", requires_grad=True) for n in (5, 300))
    of_x, of_y = xf.max_similarity(x, y, both=True)
    assert (of_x.device.type, of_x.shape, of_y.shape) == ("meta", (3, 3), (3, 3))
    (of_x.sum() + of_y.sum()).backward()
    assert (x.grad.device.type, x.grad.shape, y.grad.shape) == ("meta", x.shape, y.shape)


def test_the_default_device_is_not_the_kernels():
    x, y = tensors((3, 5, 8), (3, 4, 8), grad=True)
    with torch.device("meta"):
        out = xf.max_similarity(x, y, backend="cpu")
    out.sum().backward()
    assert x.grad.isfinite().all()


X, Y = tensors((3, 5, 8), (3, 6, 8))
META, MASK = X.to("meta"), torch.ones(3, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    ("args", "options", "error", "words"),
    [
        (([1.0], Y), {}, TypeError, "x_tokens must be a tensor, not list"),
        ((X, Y[0]), {}, ValueError, r"y_tokens must have three axes, \[N, T, D\] .* not shape \[6, 8\]"),
        ((X[..., :0], Y[..., :0]), {}, ValueError, "x_tokens must have three axes, .* D at least 1"),
        ((X, Y[..., :7]), {}, ValueError, "y_tokens must have D = 8 numbers a token as x_tokens has, not 7"),
        ((X.to_sparse(), Y), {}, TypeError, "x_tokens must be dense: pad it"),
        ((torch.nested.nested_tensor([*X]), Y), {}, TypeError, "x_tokens must be dense: pad it"),
        ((X.double(), Y), {}, TypeError, "must be of one dtype, .* not torch.float64 and torch.float32"),
        ((X.int(), Y.int()), {}, TypeError, "must be of one dtype, float32, .* not torch.int32"),
        ((X, META), {}, ValueError, "y_tokens must be on cpu as x_tokens is, not on meta"),
        ((X, Y), {"x_mask": MASK.float()}, TypeError, "x_mask must be a bool tensor, not torch.float32"),
        ((X, Y), {"y_mask": 5}, TypeError, "y_mask must be a bool tensor, not int"),
        ((X, Y), {"y_mask": MASK}, ValueError, r"y_mask must be of shape \[3, 6\], not \[3, 5\]"),
        ((X, Y), {"x_mask": MASK.to("meta")}, ValueError, "x_mask must be on cpu as x_tokens is, not on meta"),
        ((X.double(), Y.double()), {"backend": "cpu"}, ValueError, "cannot serve this call.*torch.float64"),
        ((X, Y), {"backend": "warp"}, ValueError, "backend must be 'auto' or one of 'cpu'"),
    ],
)
@pytest.mark.parametrize("recompute", [None, False, True])
def test_bad_input_is_named(args, options, error, words, recompute):
    call = xf.max_similarity
    if recompute is not None:
        call = partial(xf.late_interaction_info_nce, logit_scale=2.0, recompute=recompute)
    with pytest.raises(error, match=words):
        call(*args, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"logit_scale": "2"}, TypeError, "logit_scale must be a number or a .* tensor of one element, not str"),
        ({"logit_scale": X}, ValueError, "logit_scale must be of one element"),
        ({"reduction": "max"}, ValueError, "reduction must be 'mean' or 'sum' or 'none', not 'max'"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing must be 0 to 1, not 1.5"),
        ({"labels": 1}, ValueError, "labels: rows 1 to 3 of y must exist, and it has 3"),
        ({"labels": MASK[:, 0]}, TypeError, "labels must be an int64 tensor, not torch.bool"),
        ({"x_tokens": X[:2]}, ValueError, "symmetric must be False where x and y differ .*, 2 and 3"),
    ],
)
def test_bad_input_of_the_loss_is_named(options, error, words):
    with pytest.raises(error, match=words):
        xf.late_interaction_info_nce(**{"x_tokens": X, "y_tokens": Y, "logit_scale": 2.0, **options})


def test_a_reduction_that_is_none_is_named():
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'sum', not 'max'"):
        xf.max_similarity(X, Y, reduction="max")
