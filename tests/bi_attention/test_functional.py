"""Attention both ways against its reference, and the promises that a comparison of values does not see."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch.testing import assert_close

import xmkern.functional as xf
from xmkern.ops.registry import ops
from xmkern.testing import assert_matches_reference, strategies, threads

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMS = [(affinity, normalize) for affinity in ("dot", "tanh") for normalize in ("softmax", None)]


def tensors(*shapes, dtype=torch.float32, grad=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(grad) for shape in shapes]


def operands(B, H, L, S, D, Da, Db, **options):
    names = ("a", "b", "v_a", "v_b")
    shapes = ((B, H, L, D), (B, H, S, D), (B, H, L, Da), (B, H, S, Db))
    return dict(zip(names, tensors(*shapes, **options), strict=True))


def test_kernels_match_the_reference(capability):
    @settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(strategies.bi_attention())
    def check(inputs):
        assert_matches_reference("bi_attention", inputs, backend="cpu")

    check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "shape",
    [
        (2, 1, 196, 26, 512, 512, 512),  # several strips of rows, blocks of depth
        (1, 1, 500, 300, 40, 30, 50),  # shares of the rows, blocks of columns
        (1, 2, 70, 200, 24, 33, 17),  # b is longer
    ],
)
def test_large_shapes(shape, form, dtype, capability):
    inputs = operands(*shape, dtype=dtype)
    B, _, L, S, *_ = shape
    inputs["mask_a"], inputs["mask_b"] = torch.arange(B) * -50 + L - 3, torch.rand(B, S) < 0.9
    inputs["affinity"], inputs["normalize"] = form
    inputs["scale"] = 0.3 if form[1] else 0.02
    assert_matches_reference("bi_attention", inputs, backend="cpu")


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_the_reference(form):
    """Against finite differences in float64."""
    inputs = operands(2, 2, 4, 3, 5, 4, 6, dtype=torch.float64)
    affinity, normalize = form
    masks = {"mask_a": torch.tensor([4, 2]), "mask_b": torch.tensor([[True, False, True], [False] * 3])}

    def call(a, b, v_a, v_b):
        return xf.bi_attention(a, b, v_a, v_b, **masks, affinity=affinity, normalize=normalize, scale=0.7)

    assert torch.autograd.gradcheck(call, tuple(inputs.values()))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_it_is_two_attentions_that_share_their_scores(backend):
    inputs = operands(2, 3, 50, 20, 16, 24, 32, grad=False)
    a, b, v_a, v_b = inputs.values()
    out_a, out_b = xf.bi_attention(**inputs, backend=backend)
    assert_close(out_a, torch.nn.functional.scaled_dot_product_attention(a, b, v_b))
    assert_close(out_b, torch.nn.functional.scaled_dot_product_attention(b, a, v_a))


def test_parallel_co_attention_of_the_paper():
    """C = tanh(Q W_b V^T), C^T times what belongs to Q, C times what belongs to V."""
    inputs = operands(2, 1, 50, 20, 16, 24, 32, grad=False)
    a, b, v_a, v_b = inputs.values()
    c = (a @ b.mT).tanh()
    out_a, out_b = xf.bi_attention(**inputs, affinity="tanh", normalize=None)
    assert_close(out_a, c @ v_b)
    assert_close(out_b, c.mT @ v_a)


@pytest.mark.parametrize("name", ["bi_attention", "bi_attention_backward"])
def test_opcheck(name):
    op = ops()[name]
    torch.manual_seed(0)
    torch.library.opcheck(op.overload, (*op.sample(), "auto"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(1, 1, 700, 40, 64, 64, 64), (3, 2, 100, 60, 40, 40, 40), (1, 1, 30, 500, 16, 16, 16)]
)
def test_results_do_not_depend_on_threads(shape, dtype, capability):
    inputs = operands(*shape, dtype=dtype)
    leaves = list(inputs.values())
    results = []
    for count in (1, 2, 3, 7):
        with threads(count):
            outs = xf.bi_attention(**inputs)
            results.append((*outs, *torch.autograd.grad(outs, leaves, [torch.ones_like(out) for out in outs])))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_what_is_kept_for_the_backward_is_no_matrix():
    inputs = operands(2, 2, 300, 200, 16, 16, 16)
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        xf.bi_attention(**inputs)
    # The operands, the outputs, and a number of each row.
    assert sum(kept.values()) <= sum(x.nbytes for x in inputs.values()) * 3 // 2 + 4 * 2 * 2 * 500


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_lies_in_the_padding_reaches_nothing(dtype, form, backend):
    B, H, L, S = 4, 2, 60, 20
    masks = {"mask_a": torch.rand(B, L) < 0.5, "mask_b": torch.rand(B, S) < 0.5}
    masks["mask_a"][1] = False  # nothing of a
    masks["mask_b"][2] = False  # nothing of b
    results = []
    for padding in (0.0, torch.nan, torch.inf):
        inputs = operands(B, H, L, S, 16, 24, 40, dtype=dtype)
        with torch.no_grad():
            for name, x in inputs.items():
                x.masked_fill_(~masks[f"mask_{name[-1]}"][:, None, :, None], padding)
        affinity, normalize = form
        outs = xf.bi_attention(**inputs, **masks, affinity=affinity, normalize=normalize, backend=backend)
        grads = torch.autograd.grad(outs, list(inputs.values()), [out.detach().cos() for out in outs])
        results.append((*outs, *grads))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))
    for x, side in zip(results[0], "ababab", strict=True):
        hidden = ~masks[f"mask_{side}"][:, None, :, None].expand(B, H, -1, x.shape[3])
        assert x.isfinite().all()
        assert (x[hidden] == 0).all()
        assert (x[1:3] == 0).all()
        assert (x[~hidden][0] != 0).any()


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0), (2, 2, 0, 0)])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("form", FORMS)
def test_empty_axes(shape, form, backend):
    inputs = operands(*shape, 8, 8, 8)
    affinity, normalize = form
    outs = xf.bi_attention(**inputs, affinity=affinity, normalize=normalize, backend=backend)
    sum(out.sum() for out in outs).backward()
    assert all((out == 0).all() for out in outs)
    assert all((x.grad == 0).all() for x in inputs.values())


@pytest.mark.parametrize("form", FORMS)
def test_nan_is_kept_where_it_belongs(form, capability):
    inputs = operands(3, 1, 60, 20, 16, 24, 40, grad=False)
    inputs["a"][0, 0, 7, 3] = torch.nan
    affinity, normalize = form
    out_a, out_b = xf.bi_attention(**inputs, affinity=affinity, normalize=normalize, backend="cpu")
    assert torch.equal(out_a.isnan().all(-1).nonzero(), torch.tensor([[0, 0, 7]]))
    assert out_a.isnan().any(-1).sum() == 1
    assert out_b[0].isnan().all()
    assert out_b[1:].isfinite().all()


def test_large_affinities_do_not_overflow(capability):
    inputs = operands(2, 1, 130, 20, 16, 24, 40)
    with torch.no_grad():  # whole numbers: affinities of thousands that no rounding moves
        for name in ("a", "b"):
            inputs[name].mul_(2).round_()
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = {name: x.detach().to(dtype).requires_grad_() for name, x in inputs.items()}
        outs = xf.bi_attention(**leaves, scale=1000.0)
        results.append((*outs, *torch.autograd.grad(outs, list(leaves.values()), [out.detach().cos() for out in outs])))
    # A log-sum-exp of tens of thousands is rounded to 1/512, and so are the weights of the backward.
    for got, expected in zip(*results, strict=True):
        assert got.isfinite().all()
        assert_close(got.double(), expected, rtol=0, atol=0.01 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("wanted", [0, 1])
def test_gradients_through_one_output(wanted, capability):
    inputs = operands(2, 1, 60, 20, 16, 24, 40)
    leaves = list(inputs.values())
    results = [
        torch.autograd.grad(xf.bi_attention(**inputs, backend=backend)[wanted].cos().sum(), leaves)
        for backend in ("cpu", "reference")
    ]
    assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_heads_stay_innermost_where_they_are():
    """[B, L, H, D] behind transpose(1, 2), as projections leave it: the outputs' heads merge without a copy."""
    inputs = {name: x.transpose(1, 2).contiguous().transpose(1, 2) for name, x in operands(2, 3, 9, 7, 8, 8, 8).items()}
    for out, like in zip(xf.bi_attention(**inputs), ("a", "b"), strict=True):
        assert out.stride() == inputs[like].stride()


def test_sizes_that_the_kernels_leave_to_the_reference():
    inputs = operands(1, 1, 2, 3, 4100, 8, 8, grad=False)
    assert xf.bi_attention(**inputs)[0].isfinite().all()
    with pytest.raises(ValueError, match="up to 4096 numbers a row, not 4100"):
        xf.bi_attention(**inputs, backend="cpu")
