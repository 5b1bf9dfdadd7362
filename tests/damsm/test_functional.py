"""Matching of words and regions against its reference, and the promises that a comparison of values does not see."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch.testing import assert_close

import xmkern.functional as xf
from tests.damsm import loop
from xmkern.ops.damsm import word_region_cosines
from xmkern.ops.registry import ops
from xmkern.testing import assert_matches_reference, strategies, threads


def tensors(*shapes, dtype=torch.float32, grad=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(grad) for shape in shapes]


def test_kernels_match_the_reference(capability):
    @settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(strategies.damsm_scores())
    def check(inputs):
        assert_matches_reference("damsm_scores", inputs, backend="cpu")

    check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "shape",
    [
        (12, 3, 18, 289, 256),  # more words than a group of rows, more images than one
        (3, 3, 130, 40, 64),  # captions longer than a group
        (3, 18, 5, 30, 40),  # more images than shares of the gradient of words
        (4, 3, 9, 600, 1030),  # several blocks of regions and of depth
    ],
)
def test_large_shapes(shape, dtype, capability):
    N, M, T, R, D = shape
    words, regions = tensors((N, T, D), (M, R, D), dtype=dtype)
    lengths = torch.arange(N) * 7 % T + 1
    inputs = {"words": words, "regions": regions, "lengths": lengths}
    assert_matches_reference("damsm_scores", inputs, backend="cpu")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("classes", [None, [0, 1, 0, 2, 1, 3]])
def test_the_loss_is_that_of_the_customary_loop(classes, backend):
    options = {"lengths": torch.tensor([9, 1, 4, 7, 2, 9]), "gamma1": 4.0, "gamma2": 3.0, "gamma3": 7.0}
    options["ids"] = None if classes is None else torch.tensor(classes)
    results = []
    for call, dtype in ((xf.damsm_loss, torch.float32), (loop.losses, torch.float64)):
        words, regions = tensors((6, 9, 24), (6, 16, 24), dtype=dtype)
        parts = call(words, regions, **options, **({"backend": backend} if call is xf.damsm_loss else {}))
        results.append((*parts, *torch.autograd.grad(parts[0] + 2 * parts[1], (words, regions))))
    for got, expected in zip(*results, strict=True):
        assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


def test_scores_are_the_losses_logits():
    """Captions down, images across; captions and images need not be as many."""
    words, regions = tensors((5, 9, 24), (3, 16, 24), grad=False)
    lengths = torch.tensor([9, 1, 4, 7, 2])
    expected = [loop.scores_of_caption(w[:n], regions, 5.0, 5.0) for w, n in zip(words, lengths.tolist(), strict=True)]
    assert_close(xf.damsm_scores(words, regions, lengths), torch.stack(expected))


@pytest.mark.parametrize("gamma1", [5.0, -2.0])
def test_gradients_of_the_reference(gamma1):
    """Against finite differences in float64."""
    words, regions = tensors((3, 4, 5), (2, 6, 5), dtype=torch.float64)
    lengths = torch.tensor([4, 0, 2])

    def call(words, regions):
        return xf.damsm_scores(words, regions, lengths, gamma1, 2.0)[lengths > 0]

    assert torch.autograd.gradcheck(call, (words, regions))


@pytest.mark.parametrize("name", ["word_region_cosines", "word_region_cosines_backward"])
def test_opcheck(name):
    op = ops()[name]
    torch.manual_seed(0)
    torch.library.opcheck(op.overload, (*op.sample(), "auto"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(17, 20, 9, 50, 40), (2, 1, 130, 17, 300)])
def test_results_do_not_depend_on_threads(shape, dtype, capability):
    N, M, T, R, D = shape
    words, regions = tensors((N, T, D), (M, R, D), dtype=dtype)
    lengths = torch.arange(N) * 5 % (T + 1)
    results = []
    for count in (1, 2, 3, 7):
        with threads(count):
            scores = xf.damsm_scores(words, regions, lengths)
            results.append((scores, *torch.autograd.grad(scores[lengths > 0].sum(), (words, regions))))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_what_is_kept_for_the_backward_is_no_pair_of_words_and_regions():
    N, M, T, R, D = 10, 12, 16, 40, 32
    words, regions = tensors((N, T, D), (M, R, D))
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        xf.damsm_scores(words, regions, torch.full((N,), T))
    # Cosines, norms of contexts, and what the log-sum-exp over words keeps.
    assert sum(kept.values()) <= words.nbytes + regions.nbytes + 4 * 4 * N * M * T


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[0, 0, 0], [0, 5, 1], [5, 9, 5]])
def test_captions_of_no_words_and_of_all(lengths, dtype, backend):
    words, regions = tensors((3, 5, 16), (3, 7, 16), dtype=dtype)
    with torch.no_grad():
        for word, length in zip(words, lengths, strict=True):
            word[length:] = torch.nan
    lengths = torch.tensor(lengths)
    scores = xf.damsm_scores(words, regions, lengths, backend=backend)
    empty = lengths == 0
    assert torch.equal((scores == -torch.inf).all(1), empty)
    assert scores[~empty].isfinite().all()
    parts = xf.damsm_loss(words, regions, lengths, backend=backend)
    sum(parts).backward()
    assert (words.grad[torch.arange(5) >= lengths[:, None]] == 0).all()
    assert words.grad.isfinite().all()
    assert regions.grad.isfinite().all()
    # The captions that have words are a batch of their own.
    if (~empty).any():
        others = xf.damsm_loss(words[~empty], regions[~empty], lengths[~empty], backend=backend)
        assert_close(parts, others)
    else:
        assert parts == (0, 0)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (3, 0, 4, 5), (3, 2, 0, 5), (3, 2, 4, 0)])
def test_empty_axes(shape):
    N, M, T, R = shape
    words, regions = tensors((N, T, 8), (M, R, 8))
    scores = xf.damsm_scores(words, regions, torch.full((N,), T))
    scores.sum().backward()
    assert scores.shape == (N, M)
    assert (words.grad == 0).all()
    assert (regions.grad == 0).all()
    if N * M and T:  # no regions: contexts of zero, cosines of zero
        assert_close(scores, torch.full((N, M), float(T)).log())


def test_nan_is_kept_where_it_belongs(capability):
    words, regions = tensors((4, 6, 16), (5, 20, 16), grad=False)
    words[1, 2, 3] = regions[3, 7, 0] = torch.nan
    scores = xf.damsm_scores(words, regions, torch.full((4,), 6), backend="cpu")
    expected = (torch.arange(4) == 1)[:, None] | (torch.arange(5) == 3)
    assert torch.equal(scores.isnan(), expected)


@pytest.mark.parametrize("size", [0.0, 1e-6, 1.0])
def test_vectors_of_nothing_are_clamped(size, capability):
    """A word and an image whose norms are zero, or so small that their product is below the clamp."""
    words, regions = tensors((3, 5, 32), (3, 9, 32))
    with torch.no_grad():
        words[0, 1] *= size
        regions[1] *= size
    assert_matches_reference(
        "damsm_scores", {"words": words, "regions": regions, "lengths": torch.tensor([5, 5, 2])}, backend="cpu"
    )


def test_large_factors_do_not_overflow(capability):
    words, regions = tensors((3, 5, 32), (3, 9, 32))
    parts = xf.damsm_loss(words * 30, regions * 30, torch.tensor([5, 3, 1]), None, 1000.0, 1000.0, 1000.0)
    grads = torch.autograd.grad(sum(parts), (words, regions))
    assert all(x.isfinite().all() for x in (*parts, *grads))


def test_the_sizes_that_the_kernels_leave_to_the_reference():
    words, deep, many = torch.randn(2, 3, 2049), torch.randn(2, 4, 2049), torch.randn(2, 2049, 8)
    lengths = torch.tensor([3, 1])
    for args, words_of_reason in (((words, deep), "of up to 2048 numbers"), ((words[..., :8], many), "2048 regions")):
        assert xf.damsm_scores(*args, lengths).isfinite().all()
        with pytest.raises(ValueError, match=words_of_reason):
            xf.damsm_scores(*args, lengths, backend="cpu")


def test_integers_of_any_kind_are_lengths():
    words, regions = tensors((3, 5, 8), (2, 6, 8), grad=False)
    expected = word_region_cosines(words, regions, torch.tensor([5, 0, 2]), 5.0)
    for dtype in (torch.int32, torch.uint8):
        assert torch.equal(word_region_cosines(words, regions, torch.tensor([5, 0, 2], dtype=dtype), 5.0), expected)
    strided = torch.tensor([5, 1, 0, 1, 2])[::2]
    assert torch.equal(word_region_cosines(words, regions, strided, 5.0), expected)
