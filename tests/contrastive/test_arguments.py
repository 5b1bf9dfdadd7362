"""Errors by name, and what the calls make of their arguments."""

import pytest
import torch

import xmkern.functional as xf

X, Y, Z = torch.randn(4, 8), torch.randn(4, 8), torch.randn(6, 8)
IDS, LONG = torch.arange(4), torch.arange(6)
META = Y.to("meta")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: xf.info_nce([1.0], Y, 1.0), TypeError, "x must be a tensor, not list"),
        (lambda: xf.info_nce(X, Y[0], 1.0), ValueError, r"y must have two axes, .* not shape \[8\]"),
        (lambda: xf.info_nce(X[:, :0], Y[:, :0], 1.0), ValueError, "x must have two axes, .* at least one column"),
        (lambda: xf.info_nce(X, Y[:, :5], 1.0), ValueError, "y must have D = 8 columns as x has, not 5"),
        (lambda: xf.info_nce(X, META, 1.0), ValueError, "y must be on cpu as x is, not on meta"),
        (lambda: xf.info_nce(X, Y.double(), 1.0), TypeError, "x and y must be of one dtype, .* and torch.float64"),
        (lambda: xf.info_nce(X.int(), Y.int(), 1.0), TypeError, "x and y must be of one dtype"),
        (lambda: xf.info_nce(X.to_sparse(), Y, 1.0), TypeError, "x must be dense, not of layout torch.sparse_coo"),
        (lambda: xf.info_nce(X, Y, "a"), TypeError, "logit_scale must be a number or .* not str"),
        (lambda: xf.info_nce(X, Y, torch.ones(2)), ValueError, r"logit_scale must be of one element, not .* \[2\]"),
        (lambda: xf.info_nce(X, Y, torch.tensor(1)), TypeError, "logit_scale must be .* not torch.int64"),
        (lambda: xf.info_nce(X, Y, 1.0, logit_bias=META[0, 0]), ValueError, "logit_bias must be on cpu, not on meta"),
        (lambda: xf.info_nce(X, Z, 1.0), ValueError, "symmetric must be False where x and y differ .* 4 and 6"),
        (lambda: xf.info_nce(X, Y, 1.0, labels="a"), TypeError, "labels must be None, an int or .* not str"),
        (lambda: xf.info_nce(X, Y, 1.0, labels=1), ValueError, "labels: rows 1 to 4 of y must exist, and it has 4"),
        (lambda: xf.info_nce(X, Y, 1.0, labels=IDS.int()), TypeError, "labels must be an int64 tensor, not torch"),
        (lambda: xf.info_nce(X, Y, 1.0, labels=LONG), ValueError, r"labels must be of shape \[4\], not \[6\]"),
        (lambda: xf.info_nce(X, Y, 1.0, negatives=Z[:, :2]), ValueError, "negatives must have D = 8 columns as x has"),
        (lambda: xf.info_nce(X, Y, 1.0, negatives=(None, Z[0])), ValueError, "negatives must have two axes"),
        (
            lambda: xf.info_nce(X, Z, 1.0, symmetric=False, negatives=(None, Z)),
            ValueError, "negatives must not be for the columns where symmetric is False",
        ),
        (lambda: xf.info_nce(X, Y, 1.0, label_smoothing=1.5), ValueError, "label_smoothing must be 0 to 1, not 1.5"),
        (lambda: xf.info_nce(X, Y, 1.0, reduction="avg"), ValueError, "reduction must be 'mean' or 'sum' or 'none'"),
        (lambda: xf.info_nce(X, Y, 1.0, backend="warp"), ValueError, "backend must be 'auto' or one of .*'reference'"),
        (lambda: xf.multi_positive_info_nce(X, Y, 1.0, x_ids=None), TypeError, "x_ids must be an int64 tensor"),
        (lambda: xf.multi_positive_info_nce(X, Z, 1.0, x_ids=IDS), ValueError, r"y_ids must be of shape \[6\]"),
        (
            lambda: xf.multi_positive_info_nce(X, Y, 1.0, x_ids=IDS, same_class="gone"),
            ValueError, "same_class must be 'positive' or 'hidden', not 'gone'",
        ),
        (
            lambda: xf.multi_positive_info_nce(X, Z, 1.0, x_ids=IDS, y_ids=LONG, reduction="none"),
            ValueError, "symmetric must be False",
        ),
        (lambda: xf.mil_nce(X, Z), ValueError, r"y must have B \* P rows with B = 4, or ids be given, not 6"),
        (lambda: xf.mil_nce(X, Z, x_ids=IDS), ValueError, "x_ids and y_ids must be given together"),
        (lambda: xf.mil_nce(X, Y, denominator="both"), ValueError, "denominator must be 'joint' or .* not 'both'"),
        (lambda: xf.sigmoid_contrastive(X, Y, 1.0, labels=0, x_ids=IDS), ValueError, "labels must be None where x_ids"),
        (lambda: xf.sigmoid_contrastive(X, Y, 1.0, y_ids=IDS), TypeError, "x_ids must be an int64 tensor, not None"),
        (lambda: xf.distillation(X, Y, 1.0, X, Z, 1.0), ValueError, "teacher_y must have 4 rows as y has, not 6"),
        (lambda: xf.distillation(X, Y, 1.0, X, Y, "a"), TypeError, "teacher_scale must be a number"),
        (lambda: xf.distillation(X, Y, 1.0, X[0], Y, 1.0), ValueError, "teacher_x must have two axes"),
        (lambda: xf.distillation(X, Y, 1.0, META, META, 1.0), ValueError, "teacher_x must be on cpu as x is"),
        (lambda: xf.ranking_loss(X, Y, margin=1, mode="max"), ValueError, "mode must be 'sum' or 'hardest' or 'warp'"),
        (lambda: xf.ranking_loss(X, Y, margin=1, labels=IDS), ValueError, "labels must be None where symmetric is"),
        (lambda: xf.ranking_loss(X, Y, margin=1, y_ids=IDS), ValueError, "x_ids must be given where y_ids are"),
        (
            lambda: xf.ranking_loss(X, Y[:0], margin=1, labels=IDS, symmetric=False),
            ValueError, "y must have at least one row where x has any",
        ),
        (lambda: xf.hash_likelihood(X, Y), ValueError, "f_ids or relevance must be given"),
        (lambda: xf.hash_likelihood(X, Y[:, :3], f_ids=IDS), ValueError, "g must have D = 8 columns as f has, not 3"),
        (
            lambda: xf.hash_likelihood(X, Y, f_ids=IDS, relevance=torch.ones(4, 4).bool()),
            ValueError, "f_ids and g_ids must be None where relevance is given",
        ),
        (lambda: xf.hash_likelihood(X, Y, relevance=X), TypeError, "relevance must be a bool tensor, not torch"),
        (lambda: xf.hash_likelihood(X, Y, relevance=X > 0), ValueError, r"relevance must be of shape \[4, 4\], not"),
        (
            lambda: xf.hash_likelihood(X, Z, f_ids=IDS, g_ids=LONG, quantization=0.1),
            ValueError, "codes must be given where f and g differ in their number of rows",
        ),
        (
            lambda: xf.hash_likelihood(X, Z, f_ids=IDS, g_ids=LONG, quantization=0.1, codes=(X, X)),
            ValueError, r"codes must be of shape \[6, 8\], not \[4, 8\]",
        ),
        (lambda: xf.cosine_max_margin(X, Y, f_ids=IDS, reduction="none"), ValueError, "reduction must be 'mean' or"),
        (lambda: xf.bitwise_max_margin(X[0]), ValueError, r"h must have two axes, .* not shape \[8\]"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_backends_that_cannot_serve_say_why():
    with pytest.raises(ValueError, match=r"cannot serve this call.*torch.float64"):
        xf.info_nce(X.double(), Y.double(), 1.0, backend="cpu")


def test_left_out_rows():
    """A label that is no column's: no loss, no gradient, and no part in the mean."""
    x = X.clone().requires_grad_()
    labels = torch.tensor([2, -100, 7, 0])
    for call in (
        lambda **more: xf.info_nce(x, Z, 5.0, labels=labels, symmetric=False, label_smoothing=0.1, **more),
        lambda **more: xf.ranking_loss(x, Z, margin=3.0, labels=labels, symmetric=False, **more),
        lambda **more: xf.ranking_loss(x, Z, margin=3.0, labels=labels, symmetric=False, mode="hardest", **more),
    ):
        losses = call(reduction="none")
        out = torch.tensor([False, True, True, False])
        assert torch.equal(losses == 0, out)
        torch.testing.assert_close(call(), losses[~out].mean())
        (grad,) = torch.autograd.grad(losses.sum(), x)
        assert torch.equal((grad == 0).all(1), out)


def test_a_mean_of_nothing_is_nothing():
    nobody = torch.full((4,), -100)
    assert xf.info_nce(X, Z, 5.0, labels=nobody, symmetric=False) == 0
    assert xf.ranking_loss(X, Z, margin=1.0, labels=nobody, symmetric=False) == 0
    assert xf.multi_positive_info_nce(X, Y, 5.0, x_ids=IDS, y_ids=IDS + 9) == 0
    assert xf.mil_nce(X, Y, x_ids=IDS, y_ids=IDS + 9) == 0


def test_scales_of_any_form():
    expected = xf.info_nce(X, Y, 7.0, logit_bias=2.0, return_lse=True)
    for scale in (7, torch.tensor(7.0), torch.tensor([7.0]), torch.tensor([[7.0]]).bfloat16()):
        assert torch.equal(xf.info_nce(X, Y, scale, logit_bias=2, return_lse=True)[1], expected[1])
    scale = torch.tensor([[7.0]], requires_grad=True)
    xf.info_nce(X, Y, scale).backward()
    assert scale.grad.shape == (1, 1)


def test_layouts():
    """Transposed, sliced and expanded operands, labels and ids."""
    wide = torch.randn(4, 16)
    for x in (wide[:, ::2], torch.randn(8, 4).t(), torch.randn(1, 8).expand(4, 8), wide[:, 3:11]):
        ids = torch.arange(8)[::2] % 3
        relevance = (torch.arange(32).view(8, 4) % 3 == 0)[::2]
        for call in (
            lambda x, ids, relevance: xf.multi_positive_info_nce(x, Y, 3.0, x_ids=ids, normalize=True),
            lambda x, ids, relevance: xf.hash_likelihood(x, Y, relevance=relevance),
        ):
            results = []
            for copied in (False, True):
                leaf = (x.contiguous() if copied else x).detach().requires_grad_()
                loss = call(leaf, ids.contiguous() if copied else ids, relevance.contiguous() if copied else relevance)
                results.append((loss, *torch.autograd.grad(loss, leaf)))
            for a, b in zip(*results, strict=True):
                torch.testing.assert_close(a, b)
