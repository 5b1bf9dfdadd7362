"""Late interaction against its reference and its formula, and the promises that a comparison of values does not see."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings

import xmkern.functional as xf
from xmkern.ops.late_interaction import softmax
from xmkern.ops.registry import ops
from xmkern.testing import assert_matches_reference, strategies, threads

OPERATORS = [f"max_similarity{of}{direction}" for of in ("", "_statistics") for direction in ("", "_backward")]


def tensors(*shapes, dtype=torch.float32, grad=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(grad) for shape in shapes]


def whole_numbers(*shapes, dtype=torch.float32, seed=0):
    """Similarities of these are exact in every dtype, so that all agree on who wins."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(-1, 2, shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def some(*shapes, seed=0):
    """Masks, of which the second sample's hides all."""
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.rand(shape, generator=generator) < 0.7 for shape in shapes]
    for mask in masks:
        mask[1] = False
    return masks


def by_loops(x, y, x_mask, y_mask, reduction):
    """The formula of FILIP and ColBERT, pair by pair."""
    scores = x.new_zeros(len(x), len(y))
    for i, (own, kept) in enumerate(zip(x, x_mask, strict=True)):
        for j, (other, other_kept) in enumerate(zip(y, y_mask, strict=True)):
            if kept.any() and other_kept.any():
                scores[i, j] = getattr((own[kept] @ other[other_kept].T).amax(1), reduction)()
    return scores


@pytest.mark.parametrize("name", ["max_similarity", "late_interaction_info_nce"])
def test_kernels_match_the_reference(name, capability):
    @settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(getattr(strategies, name)())
    def check(inputs):
        assert_matches_reference(name, inputs, backend="cpu")

    check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(13, 30, 49, 32, 64), (2, 3, 300, 290, 40), (70, 3, 1, 700, 24), (2, 40, 700, 3, 9)])
def test_more_than_one_task_holds(shape, dtype, capability):
    """Several groups of columns and parts of rows; winners of one byte and of two."""
    B, N, R, T, D = shape
    x, y = whole_numbers((B, R, D), (N, T, D), dtype=dtype)
    x_mask, y_mask = some((B, R), (N, T))
    inputs = {"x_tokens": x, "y_tokens": y, "both": True}
    for masks in ({}, {"x_mask": x_mask, "y_mask": y_mask}):
        assert_matches_reference("max_similarity", {**inputs, **masks}, backend="cpu")


def test_winners_of_four_bytes(capability):
    x, y = whole_numbers((1, 2, 3), (2, 2**15 + 40, 3))
    with torch.no_grad():
        x.clamp_(min=1)
        y[0, 2**15 + 33] = 2.0
    inputs = {"x_tokens": x, "y_tokens": y, "both": True}
    assert_matches_reference("max_similarity", inputs, backend="cpu")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_reference_is_what_its_formula_says(reduction):
    x, y = tensors((3, 5, 7), (4, 6, 7), grad=False)
    x_mask, y_mask = some((3, 5), (4, 6))
    got = xf.max_similarity(x, y, x_mask, y_mask, reduction=reduction, both=True, backend="reference")
    torch.testing.assert_close(got[0], by_loops(x, y, x_mask, y_mask, reduction))
    torch.testing.assert_close(got[1], by_loops(y, x, y_mask, x_mask, reduction).T)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("both", [False, True])
def test_gradients_of_the_reference(both, reduction):
    """Against finite differences in float64."""
    x, y = (each.detach().double().requires_grad_() for each in tensors((3, 5, 7), (4, 6, 7)))
    masks = some((3, 5), (4, 6))
    assert torch.autograd.gradcheck(
        lambda x, y: xf.max_similarity(x, y, *masks, reduction=reduction, both=both), (x, y)
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name):
    op = ops()[name]
    torch.manual_seed(0)
    torch.library.opcheck(op.overload, (*op.sample(), "auto"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_threads(dtype, capability):
    x, y = tensors((70, 33, 40), (70, 30, 40), dtype=dtype)
    x_mask, y_mask = some((70, 33), (70, 30))
    results = []
    for count in (1, 2, 3, 7):
        with threads(count):
            scores = xf.max_similarity(x, y, x_mask, both=True)
            loss = xf.late_interaction_info_nce(x, y, 9.0, y_mask=y_mask, recompute=True)
            grads = torch.autograd.grad(scores[0].sum() + 2 * scores[1].sum() + loss, (x, y))
            results.append((*scores, loss, *grads))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("recompute", [None, False, True])
def test_a_frozen_side_changes_nothing_on_the_other(recompute, backend):
    """Bit for bit, of scores and of both sorts of loss; and what is not wanted is not made."""

    def loss(x, y):
        if recompute is None:
            return sum(part.square().sum() for part in xf.max_similarity(x, y, both=True, backend=backend))
        return xf.late_interaction_info_nce(x, y, 9.0, recompute=recompute, backend=backend)

    x, y = tensors((9, 7, 40), (9, 5, 40))
    expected = torch.autograd.grad(loss(x, y), (x, y))
    assert torch.equal(torch.autograd.grad(loss(x, y.detach()), x)[0], expected[0])
    assert torch.equal(torch.autograd.grad(loss(x.detach(), y), y)[0], expected[1])
    for name in OPERATORS[1::2]:
        *args, _, _ = ops()[name].sample()
        assert ops()[name](*args, False, True, backend=backend)[0].numel() == 0
        assert ops()[name](*args, True, False, backend=backend)[1].numel() == 0


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_of_equal_tokens_the_first_wins(backend):
    x, y = torch.ones(1, 3, 20, requires_grad=True), torch.ones(2, 40, 20, requires_grad=True)
    mask = torch.arange(40) > torch.tensor([[6], [30]])
    of_x, of_y = xf.max_similarity(x, y, y_mask=mask, reduction="sum", both=True, backend=backend)
    (grad,) = torch.autograd.grad(of_x.sum(), y, retain_graph=True)
    assert grad.any(-1).nonzero().tolist() == [[0, 7], [1, 31]]
    (grad,) = torch.autograd.grad(of_y.sum(), x)
    assert grad[..., 0].tolist() == [[33 + 9, 0, 0]]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_sample_without_tokens(dtype, backend):
    x, y = tensors((3, 5, 16), (4, 40, 16), dtype=dtype)
    x_mask, y_mask = some((3, 5), (4, 40))
    scores = xf.max_similarity(x, y, x_mask, y_mask, both=True, backend=backend)
    sum(each.sum() for each in scores).backward()
    for each in scores:
        assert (each[1] == 0).all()
        assert (each[:, 1] == 0).all()
        assert (each[0, 2:] != 0).all()
    for side, mask in ((x, x_mask), (y, y_mask)):
        assert (side.grad[~mask] == 0).all()
        assert (side.grad[0][mask[0]] != 0).any()


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (3, 0, 4, 5), (3, 2, 0, 5), (3, 2, 4, 0), (0, 0, 0, 0)])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_empty_axes(shape, backend):
    B, N, R, T = shape
    x, y = tensors((B, R, 8), (N, T, 8))
    scores = xf.max_similarity(x, y, both=True, backend=backend)
    sum(each.sum() for each in scores).backward()
    assert (x.grad.shape, y.grad.shape) == (x.shape, y.shape)
    for each in scores:
        assert torch.equal(each, torch.zeros(B, N))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("call", ["max_similarity", "info_nce", "info_nce normalized"])
def test_padding_does_not_leak(call, dtype, capability):
    x, y = tensors((4, 40, 16), (4, 30, 16), dtype=dtype)
    x_mask, y_mask = some((4, 40), (4, 30))
    with torch.no_grad():
        x[~x_mask], y[~y_mask] = torch.nan, torch.inf
    if call == "max_similarity":
        results = xf.max_similarity(x, y, x_mask, y_mask, both=True)
    else:
        options = {"x_mask": x_mask, "y_mask": y_mask, "normalize": "normalized" in call}
        results = [xf.late_interaction_info_nce(x, y, 3.0, **options, recompute=again) for again in (False, True)]
    sum(each.sum() for each in results).backward()
    for each in (*results, x.grad, y.grad):
        assert each.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [0x7FC00000, -0x400000, 0x7FC10000])
def test_nan_is_kept_where_it_belongs(bits, dtype, capability):
    """Of x's token in the scores of its sample, of y's token likewise; it wins, and so gets gradients."""
    nan = torch.tensor(bits, dtype=torch.int32).view(torch.float32).to(dtype)
    x, y = tensors((3, 40, 16), (4, 30, 16), dtype=dtype)
    with torch.no_grad():
        x[1, 33, 5], y[2, 17, 0] = nan, nan
    scores = xf.max_similarity(x, y, both=True)
    wrong = torch.zeros(3, 4, dtype=torch.bool)
    wrong[1], wrong[:, 2] = True, True
    for each in scores:
        assert torch.equal(each.isnan(), wrong)
    (of_x,) = torch.autograd.grad(scores[1][:, [0, 1, 3]].sum(), x, retain_graph=True)
    (of_y,) = torch.autograd.grad(scores[0][[0, 2]].sum(), y)
    for grad, token in ((of_x[1], 33), (of_y[2], 17)):
        assert grad[token].all()
        assert grad.any(1).sum() == 1


def test_infinite_similarities(capability):
    x, y = tensors((2, 20, 8), (3, 18, 8), grad=False)
    x[0], y[1] = x[0].abs() * 1e30, -y[1].abs() * 1e30
    got = xf.max_similarity(x, y, both=True, backend="cpu")
    want = xf.max_similarity(x, y, both=True, backend="reference")
    for each, expected in zip(got, want, strict=True):
        assert expected[0, 1] == -torch.inf
        torch.testing.assert_close(each, expected)


def test_strides_of_more_elements_than_32_bits_count(capability):
    apart = 2**31 // 3
    memory = torch.empty(4 * apart, dtype=torch.float16)  # touched in four tokens only
    far = memory.as_strided((2, 2, 16), (2 * apart, apart, 1)).copy_(torch.randn(2, 2, 16))
    near = far.contiguous().requires_grad_()
    far.requires_grad_()
    outs = [xf.max_similarity(each, each) for each in (far, near)]
    for out in outs:
        out.sum().backward()
    assert torch.equal(*outs)
    assert torch.equal(far.grad, near.grad)


def kept_bytes(call):
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = call()
    (out[0] if isinstance(out, tuple) else out).sum().backward()
    return sum(kept.values())


@pytest.mark.parametrize(("R", "T", "size"), [(50, 40, 1), (50, 256, 1), (50, 257, 2)])
def test_what_is_kept_for_the_backward_is_small_integers(R, T, size):
    B, N, D = 20, 30, 16
    x, y = tensors((B, R, D), (N, T, D))
    operands = x.nbytes + y.nbytes
    assert kept_bytes(lambda: xf.max_similarity(x, y)) == operands + B * N * R * size
    both = B * N * (R * size + T)
    assert kept_bytes(lambda: xf.max_similarity(x, y, both=True)) == operands + both


def test_what_is_kept_for_the_backward_of_recomputed_scores_is_linear():
    B, R, T, D = 300, 3, 2, 4
    x, y = tensors((B, R, D), (B, T, D))
    kept = kept_bytes(lambda: xf.late_interaction_info_nce(x, y, 2.0, recompute=True))
    assert kept <= x.nbytes + y.nbytes + 100 * B
    assert kept == kept_bytes(lambda: xf.late_interaction_info_nce(x, y, 2.0))  # by default, at such sizes
    assert kept_bytes(lambda: xf.late_interaction_info_nce(x, y, 2.0, recompute=False)) > 4 * B * B


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("samples", [1, 3])
def test_strips_add_up(samples, dtype, monkeypatch):
    x, y = whole_numbers((7, 20, 16), (7, 13, 16), dtype=dtype)
    x_mask, y_mask = some((7, 20), (7, 13))
    monkeypatch.setattr(softmax, "_STRIP", samples * softmax.bytes_of_pairs(x, y))

    def loss(recompute, **inputs):
        return xf.late_interaction_info_nce(**inputs, label_smoothing=0.1, recompute=recompute)

    inputs = {"x_tokens": x, "y_tokens": y, "logit_scale": torch.tensor(0.3, requires_grad=True)}
    inputs |= {"x_mask": x_mask, "y_mask": y_mask}
    assert_matches_reference(partial(loss, True), inputs, reference=partial(loss, False))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("normalize", [False, True])
class TestLoss:
    """Against torch's own cross-entropy of scores that are written out."""

    def scores(self, x, y, masks, normalize):
        if normalize:
            x, y = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
        x_mask, y_mask = masks
        return by_loops(x, y, x_mask, y_mask, "mean"), by_loops(y, x, y_mask, x_mask, "mean")

    def same(self, inputs, got, expected):
        torch.testing.assert_close(got, expected)
        grads = [torch.autograd.grad(loss.square().sum(), inputs) for loss in (got, expected)]
        for each, other in zip(*grads, strict=True):
            torch.testing.assert_close(each, other)

    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    @pytest.mark.parametrize("labels", [None, torch.tensor([2, 0, 4, 1, 3])])
    def test_of_both_directions(self, labels, reduction, normalize, smoothing, recompute):
        x, y, scale = (each.detach().double().requires_grad_() for each in tensors((5, 4, 7), (5, 6, 7), ()))
        masks = some((5, 4), (5, 6))
        options = {"label_smoothing": smoothing, "reduction": reduction}
        got = xf.late_interaction_info_nce(
            x, y, scale, x_mask=masks[0], y_mask=masks[1], labels=labels, normalize=normalize, recompute=recompute,
            **options,
        )  # fmt: skip
        own = torch.arange(5) if labels is None else labels
        of_x, of_y = self.scores(x, y, masks, normalize)
        of_columns = F.cross_entropy(scale * of_y, own.argsort(), label_smoothing=smoothing, reduction="none")[own]
        losses = (F.cross_entropy(scale * of_x, own, label_smoothing=smoothing, reduction="none") + of_columns) / 2
        self.same((x, y, scale), got, losses if reduction == "none" else getattr(losses, reduction)())

    @pytest.mark.parametrize("labels", [2, torch.tensor([6, -100, 0])])
    def test_of_rows_alone(self, labels, normalize, smoothing, recompute):
        x, y, scale = (each.detach().double().requires_grad_() for each in tensors((3, 4, 7), (7, 6, 7), ()))
        masks = some((3, 4), (7, 6))
        got = xf.late_interaction_info_nce(
            x, y, scale, x_mask=masks[0], y_mask=masks[1], labels=labels, symmetric=False, label_smoothing=smoothing,
            normalize=normalize, recompute=recompute,
        )  # fmt: skip
        own = torch.arange(3) + labels if isinstance(labels, int) else labels
        logits = scale * self.scores(x, y, masks, normalize)[0]
        self.same((x, y, scale), got, F.cross_entropy(logits, own, label_smoothing=smoothing))


@pytest.mark.parametrize("recompute", [False, True])
def test_a_large_scale_does_not_overflow(recompute):
    x, y = tensors((6, 5, 16), (6, 7, 16))
    scale = torch.tensor(1000.0, requires_grad=True)
    loss = xf.late_interaction_info_nce(x, y, scale, normalize=True, recompute=recompute)
    for each in (loss, *torch.autograd.grad(loss, (x, y, scale))):
        assert each.isfinite().all()
