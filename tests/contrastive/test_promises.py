"""What the contrastive losses promise besides values: memory, no overflow, empty and hidden rows, threads, parts."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import xmkern.functional as xf
from xmkern.ops.contrastive import Pairs, op, reduce_similarities, reference, similarity_reduce_backward
from xmkern.ops.contrastive.divergence import Similarities, compare_similarities
from xmkern.ops.registry import ops
from xmkern.testing import assert_matches_reference, threads

BACKENDS = ["reference", *(["cpu"] if "cpu" in op.LAUNCHERS else [])]


def tensors(*shapes, dtype=torch.float32, grad=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(grad) for shape in shapes]


def ids(count, classes):
    return torch.arange(count) % classes


CALLS = {
    "info_nce": lambda x, y, **more: xf.info_nce(x, y, 2.0, **more),
    "one direction": lambda x, y, **more: xf.info_nce(x, y, 2.0, symmetric=False, **more),
    "smoothed": lambda x, y, **more: xf.info_nce(x, y, 2.0, label_smoothing=0.1, **more),
    "queue": lambda x, y, **more: xf.info_nce(x, y, 2.0, negatives=(y.detach(), None), **more),
    "permuted": lambda x, y, **more: xf.info_nce(x, y, 2.0, labels=torch.arange(len(x)).flip(0), **more),
    "classes": lambda x, y, **more: xf.multi_positive_info_nce(x, y, 2.0, x_ids=ids(len(x), 9), **more),
    "hidden": lambda x, y, **more: xf.multi_positive_info_nce(
        x, y, 2.0, x_ids=ids(len(x), 9), same_class="hidden", **more
    ),
    "mil": lambda x, y, **more: xf.mil_nce(x, y, 2.0, **more),
    "sigmoid": lambda x, y, **more: xf.sigmoid_contrastive(x, y, 2.0, -1.0, **more),
    "distillation": lambda x, y, **more: xf.distillation(x, y, 2.0, x.detach(), y.detach(), 3.0, **more),
    "sum": lambda x, y, **more: xf.ranking_loss(x, y, margin=0.2, **more),
    "warp": lambda x, y, **more: xf.ranking_loss(x, y, margin=0.2, mode="warp", x_ids=ids(len(x), 9), **more),
    "hardest": lambda x, y, **more: xf.ranking_loss(x, y, margin=0.2, mode="hardest", **more),
    "cosine": lambda x, y, normalize=True, **more: xf.cosine_max_margin(x, y, f_ids=ids(len(x), 9), **more),
    "likelihood": lambda x, y, normalize=True, **more: xf.hash_likelihood(x, y, f_ids=ids(len(x), 9), **more),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CALLS)
def test_what_is_kept_for_the_backward_is_not_a_matrix(name, dtype):
    """Nor a copy of the inputs, normalised or in float32; at most the gradients beside them."""
    B, D = 512, 32
    x, y = tensors((B, D), (B, D), dtype=dtype)
    kept = {}

    def pack(saved):
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        loss = CALLS[name](x, y, normalize=True)
    inputs, matrix = x.nbytes + y.nbytes, B * B * x.element_size()
    assert inputs <= sum(kept.values()) <= 2 * inputs + 100 * 2 * B < matrix
    loss.backward()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_overflow_at_large_scales(dtype, backend):
    x, y = tensors((70, 32), (70, 32), dtype=dtype)
    scale = torch.tensor(1000.0, requires_grad=True)
    sides = {"x": x, "y": y, "logit_scale": scale, "normalize": True, "backend": backend}
    for call, more in (
        (xf.info_nce, {"logit_bias": -300.0}),
        (xf.multi_positive_info_nce, {"x_ids": ids(70, 9)}),
        (xf.mil_nce, {}),
        (xf.sigmoid_contrastive, {"logit_bias": 300.0}),
        (xf.ranking_loss, {"margin": 100.0}),
    ):
        grads = torch.autograd.grad(call(**sides, **more), (x, y, scale))
        assert all(grad.isfinite().all() for grad in grads), call
    sides.pop("backend")
    loss = xf.distillation(**sides, teacher_x=y, teacher_y=x, teacher_scale=1000.0)
    assert loss.isfinite()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss, (x, y)))
    big = (200 * F.normalize(x.float())).to(dtype).detach().requires_grad_()  # theta of 20,000
    loss = xf.hash_likelihood(big, big, relevance=torch.rand(70, 70) < 0.5, backend=backend)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, big)[0].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", reference.KINDS)
def test_rows_of_which_all_is_hidden(kind, backend):
    x, y = tensors((40, 8), (50, 8))
    scales = torch.ones(40, requires_grad=True), torch.ones(50, requires_grad=True), torch.tensor(0.5)
    hidden = torch.arange(40) % 3 == 0
    groups = torch.where(hidden, 1, 2), torch.ones(50, dtype=torch.int64)
    offsets = torch.ones(40), torch.ones(50)
    found = reduce_similarities(
        x, y, *scales, Pairs(None, None, *groups, None, *offsets), kind=kind, columns=True, backend=backend
    )
    nothing = 0.0 if kind in ("softplus", "hinge", "margin") else -torch.inf
    assert (found.value[hidden] == nothing).all()
    assert found.value[~hidden].isfinite().all()
    assert (found.positive[hidden] == (-torch.inf if kind == "mil" else 0.0)).all()
    assert (found.count[hidden] == (-1 if kind == "maximum" else 0)).all()
    if kind == "maximum":
        assert not found.value.requires_grad
        return
    found.value.masked_fill(hidden, 0).sum().backward(retain_graph=True)
    assert (x.grad[hidden] == 0).all()
    (found.value.sum() + found.column_value.sum()).backward()  # even the gradient of what is -inf
    for each in (x, y, *scales[:2]):
        assert each.grad.isfinite().all()
    assert (x.grad[hidden] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CALLS)
def test_a_frozen_side_changes_nothing_on_the_other(name, dtype, backend):
    """Bit for bit; and the operators are told not to make its gradient."""
    x, y = tensors((180, 40), (180, 40), dtype=dtype)
    expected = torch.autograd.grad(CALLS[name](x, y, backend=backend, normalize=True), (x, y))
    for live in (0, 1):
        sides = [side if i == live else side.detach() for i, side in enumerate((x, y))]
        with Wanted() as wanted:
            (found,) = torch.autograd.grad(CALLS[name](*sides, backend=backend, normalize=True), sides[live])
        assert torch.equal(found, expected[live])
        assert all(flags == (live == 0, live == 1) for flags in wanted.flags)
        assert wanted.flags or name == "hardest"


class Wanted(TorchDispatchMode):
    """Which gradients were asked of the operators that make them, but for matrices of depth 1, as mil_nce has one."""

    def __init__(self):
        super().__init__()
        self.flags = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator in (op.similarity_reduce_backward.overload, ops()["similarity_loss"].overload):
            x = next(each for each in args if each.dim() == 2)
            self.flags += [args[-3:-1]] * (x.shape[1] > 1)
        elif operator == ops()["similarity_divergence_backward"].overload:
            self.flags.append(args[-4:-2])
            assert not args[-2]  # the teacher's
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", [(True, False), (False, True), (False, False)])
def test_the_operators_leave_out_what_is_not_wanted(which, backend):
    torch.manual_seed(0)
    for each in (op.similarity_reduce_backward, ops()["similarity_loss"]):
        *args, _, _ = each.sample()
        expected, found = (each(*args, *flags, backend=backend)[-5:] for flags in ((True, True), which))
        for i, (got, want) in enumerate(zip(found, expected, strict=True)):
            assert torch.equal(got, want if i >= 2 or which[i] else want.new_empty(0))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", [(True, False, True), (False, True, False), (False, False, False)])
def test_the_divergence_leaves_out_what_is_not_wanted(which, backend):
    torch.manual_seed(0)
    backward = ops()["similarity_divergence_backward"]
    *args, _, _, _ = backward.sample()
    expected, found = (backward(*args, *flags, backend=backend) for flags in ((True, True, True), which))
    wanted = (*which[:2], True, True, *which[2:] * 4)
    for got, want, kept in zip(found, expected, wanted, strict=True):
        assert torch.equal(got, want if kept else want.new_empty(0))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CALLS)
def test_empty_and_single_batches(name, dtype, backend):
    for rows in (0, 1):
        x, y = tensors((rows, 8), (rows, 8), dtype=dtype)
        loss = CALLS[name](x, y, backend=backend)
        loss.backward()
        assert loss.isfinite()
        assert rows or loss == 0
        for each in (x, y):
            assert each.grad.shape == each.shape
            assert each.grad.isfinite().all()


def test_a_row_alone_loses_nothing():
    x, y = tensors((1, 8), (1, 8))
    loss = xf.info_nce(x, y, 100.0)
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(0.0))
    torch.testing.assert_close(x.grad, torch.zeros_like(x), rtol=0, atol=1e-4)


def test_a_row_of_zeros_is_normalised_as_torch_does():
    x, y = tensors((5, 8), (5, 8))
    with torch.no_grad():
        x[2], x[3] = 0, 1e-14
    found = []
    for loss in (xf.info_nce(x, y, 3.0, normalize=True), xf.info_nce(F.normalize(x), F.normalize(y), 3.0)):
        found.append((loss, *torch.autograd.grad(loss, (x, y))))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_is_kept_where_it_belongs(backend):
    x, y = tensors((70, 8), (70, 8), grad=False)
    x[3, 2] = torch.nan
    wrong = torch.arange(70) == 3
    for loss in (
        xf.info_nce(x, y, 1.0, symmetric=False, reduction="none", backend=backend),
        xf.multi_positive_info_nce(x, y, 1.0, x_ids=ids(70, 9), symmetric=False, reduction="none", backend=backend),
        xf.mil_nce(x, y, 1.0, denominator="rows", reduction="none", backend=backend),
        xf.sigmoid_contrastive(x, y, 1.0, reduction="none", backend=backend),
    ):
        assert torch.equal(loss.isnan(), wrong)
    _, _, column_lse = xf.info_nce(x, y, 1.0, return_lse=True, backend=backend)
    assert column_lse.isnan().all()


@pytest.mark.skipif("cpu" not in op.LAUNCHERS, reason="no kernels for the CPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CALLS)
def test_results_do_not_depend_on_threads(name, dtype, capability):
    results = []
    for count in (1, 2, 3, 7):
        x, y = tensors((700, 40), (700, 40), dtype=dtype)
        with threads(count):
            loss = CALLS[name](x, y, backend="cpu")
            loss.backward()
        results.append((loss, x.grad, y.grad))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.skipif("cpu" not in op.LAUNCHERS, reason="no kernels for the CPU")
@pytest.mark.parametrize("shape", [(4096, 48), (48, 4096)])
@pytest.mark.parametrize("kind", ["logsumexp", "mil", "softplus", "hinge", "margin"])
def test_long_sums_lose_no_more_than_short_ones(kind, shape, capability):
    x, y = tensors((shape[0], 16), (shape[1], 16), grad=False)
    one = [torch.ones(size) for size in shape]
    pairs = Pairs(ids(shape[0], 3), ids(shape[1], 3), x_offset=3 * one[0], y_offset=3 * one[1])
    inputs = {"x": x, "y": y, "x_scale": one[0], "y_scale": one[1], "bias": torch.tensor(0.0), "pairs": pairs}
    tested, expected = (
        partial(reduce_similarities, kind=kind, columns=True, backend=name) for name in ("cpu", "reference")
    )
    assert_matches_reference(tested, inputs, reference=expected)


@pytest.mark.parametrize("name", sorted(name for name in ops() if name.startswith("similarity")))
def test_opcheck(name):
    torch.manual_seed(0)
    torch.library.opcheck(ops()[name].overload, (*ops()[name].sample(), "auto"))


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("kind", ["logsumexp", "mil", "softplus", "margin"])
@pytest.mark.parametrize("pairs", ["ids", "relevance"])
def test_gradients_of_the_reference(kind, pairs, columns):
    """Against finite differences in float64."""
    x, y, x_scale, y_scale, bias = (
        each.detach().double().requires_grad_() for each in tensors((5, 3), (7, 3), 5, 7, ())
    )
    positive = Pairs(ids(5, 3), ids(7, 3))
    if pairs == "relevance":
        positive = Pairs(relevance=torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.4)
    offsets = [torch.full((size,), 0.31, dtype=torch.float64) for size in (5, 7)]
    positive = positive._replace(x_groups=ids(5, 4), y_groups=ids(7, 4), x_offset=offsets[0], y_offset=offsets[1])

    def call(*operands):
        found = reduce_similarities(*operands, positive, kind=kind, columns=columns, backend="reference")
        parts = (found.value, found.positive, found.column_value, found.column_positive)[: 2 + 2 * columns]
        return [torch.where(part.detach().isfinite(), part, 0) for part in parts]

    assert torch.autograd.gradcheck(call, (x, y, x_scale, y_scale, bias))


def test_gradients_of_distillation():
    sides = [each.detach().double().requires_grad_() for each in tensors((5, 3), (7, 3), 5, 7, (5, 2), (7, 2), 5, 7)]

    def call(*sides):
        return compare_similarities(Similarities(*sides[:4]), Similarities(*sides[4:]), columns=True)

    assert torch.autograd.gradcheck(call, sides)


def test_strips_of_distillation(monkeypatch):
    """As many as it takes, and a short one at the end."""
    x, y, teacher_x, teacher_y = tensors((70, 8), (50, 8), (70, 5), (50, 5))

    def results():
        loss = xf.distillation(x, y, 2.0, teacher_x, teacher_y, 3.0, backend="reference")
        return loss, *torch.autograd.grad(loss, (x, y, teacher_x, teacher_y))

    whole = results()
    monkeypatch.setattr("xmkern.ops.contrastive.divergence._STRIP", 900)
    for got, expected in zip(results(), whole, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["logsumexp", "mil", "softplus"])
def test_parts_of_a_matrix_add_up_to_its_gradient(kind, backend):
    """What ranks do: statistics of the whole, gradients of the columns that are here."""
    x, y = tensors((40, 8), (60, 8), grad=False)
    scales, bias = (torch.ones(40), torch.ones(60)), torch.tensor(0.1)
    whole = Pairs(ids(40, 50), ids(60, 50))
    found = reduce_similarities(x, y, *scales, bias, whole, kind=kind, columns=True, backend=backend)
    stats = (found.value, found.positive, found.column_value, found.column_positive)
    grads = tensors(*(each.shape for each in stats), grad=False, seed=1)
    expected = similarity_reduce_backward(
        *grads, x, y, *scales, bias, *whole, *stats, kind, True, True, True, backend=backend
    )
    parts = []
    for first, last in ((0, 25), (25, 60)):
        here = slice(first, last)
        pairs = whole._replace(y_ids=whole.y_ids[here])
        parts.append(
            similarity_reduce_backward(
                *grads[:2], grads[2][here], grads[3][here], x, y[here], scales[0], scales[1][here], bias, *pairs,
                *stats[:2], stats[2][here], stats[3][here], kind, True, True, True, backend=backend,
            )
        )  # fmt: skip
    for i, whole_grad in enumerate(expected):
        joined = parts[0][i] + parts[1][i] if i in (0, 2, 4) else torch.cat([part[i] for part in parts])
        torch.testing.assert_close(joined, whole_grad)
