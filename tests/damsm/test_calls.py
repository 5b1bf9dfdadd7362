"""DAMSM's calls: errors by name, autocast, torch.compile, torch.func."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

import xmkern.functional as xf

WORDS, REGIONS, LENGTHS = torch.randn(3, 5, 8), torch.randn(4, 6, 8), torch.tensor([5, 2, 1])


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (([1.0], REGIONS, LENGTHS), TypeError, "words must be a tensor, not list"),
        ((WORDS[0], REGIONS, LENGTHS), ValueError, r"words must have three axes, \[N, T, D\], not shape \[5, 8\]"),
        ((WORDS, REGIONS[None], LENGTHS), ValueError, r"regions must have three axes, \[M, R, D\]"),
        ((WORDS[..., :0], REGIONS[..., :0], LENGTHS), ValueError, "words must have D of at least 1"),
        ((WORDS, REGIONS[..., :4], LENGTHS), ValueError, r"regions must have .* D = 8 as words has, not \[4, 6, 4\]"),
        ((WORDS, REGIONS, [5, 2, 1]), ValueError, r"lengths must be a tensor \[N\] with N = 3, not list"),
        ((WORDS, REGIONS, LENGTHS[:2]), ValueError, r"lengths must be a tensor \[N\] with N = 3, not shape \[2\]"),
        ((WORDS, REGIONS, LENGTHS.float()), TypeError, "lengths must be of integers, not torch.float32"),
        ((WORDS, REGIONS, LENGTHS.bool()), TypeError, "lengths must be of integers, not torch.bool"),
        ((WORDS, REGIONS.double(), LENGTHS), TypeError, "of one dtype, .* not torch.float32 and torch.float64"),
        ((WORDS.int(), REGIONS.int(), LENGTHS), TypeError, "of one dtype, .* not torch.int32"),
        ((WORDS, REGIONS.to("meta"), LENGTHS), ValueError, "regions must be on cpu as words is, not on meta"),
        ((WORDS, REGIONS, LENGTHS.to("meta")), ValueError, "lengths must be on cpu as words is, not on meta"),
        ((WORDS, REGIONS, LENGTHS, torch.tensor(5.0)), TypeError, "gamma1 must be a number, not a tensor"),
    ],
)
def test_errors_name_the_argument(args, error, message):
    with pytest.raises(error, match=message):
        xf.damsm_scores(*args)


def test_errors_of_the_loss():
    with pytest.raises(ValueError, match="regions must be of as many images as there are captions, 3, not 4"):
        xf.damsm_loss(WORDS, REGIONS, LENGTHS)
    for ids, told in ((torch.arange(4), r"shape \[4\]"), ([1, 2, 3], "list")):
        with pytest.raises(ValueError, match=rf"ids must be a tensor \[B\] with B = 3, not {told}"):
            xf.damsm_loss(WORDS, REGIONS[:3], LENGTHS, ids)


def test_backends_by_name():
    with pytest.raises(ValueError, match="the kernels take float32, bfloat16 and float16, not"):
        xf.damsm_scores(WORDS.double(), REGIONS.double(), LENGTHS, backend="cpu")
    with pytest.raises(ValueError, match="backend must be 'auto' or one of 'cpu', 'reference'"):
        xf.damsm_scores(WORDS, REGIONS, LENGTHS, backend="gpu")


def test_autocast_casts_words_and_regions():
    with torch.autocast("cpu", torch.bfloat16):
        got = xf.damsm_scores(WORDS, REGIONS, LENGTHS)
    assert got.dtype == torch.float32
    assert torch.equal(got, xf.damsm_scores(WORDS.bfloat16(), REGIONS.bfloat16(), LENGTHS))


def loss(words, regions, lengths, ids=None):
    return sum(xf.damsm_loss(words, regions, lengths, ids))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_gradients_of_a_compiled_call(backend):
    torch._dynamo.reset()
    words, regions = WORDS.clone().requires_grad_(), REGIONS[:3].clone().requires_grad_()
    results = []
    for call in (loss, torch.compile(loss, fullgraph=True, backend=backend)):
        out = call(words, regions, LENGTHS, torch.tensor([0, 1, 0]))
        results.append((out, *torch.autograd.grad(out, (words, regions))))
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected)


def test_one_graph_for_all_sizes():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    counts = []
    compiled = torch.compile(loss, fullgraph=True, backend=counter, dynamic=True)
    for B, T in ((3, 5), (4, 7), (6, 9)):
        words, regions, lengths = torch.randn(B, T, 8), torch.randn(B, 6, 8), torch.arange(B) + 1
        assert_close(compiled(words, regions, lengths), loss(words, regions, lengths))
        counts.append(counter.frame_count)
    assert counts[0] == counts[-1]


def test_grad_of_torch_func():
    regions = REGIONS[:3]
    got = torch.func.grad(loss, argnums=(0, 1))(WORDS, regions, LENGTHS)
    leaves = [x.clone().requires_grad_() for x in (WORDS, regions)]
    for a, b in zip(got, torch.autograd.grad(loss(*leaves, LENGTHS), leaves), strict=True):
        assert_close(a, b)


def test_vmap():
    words, lengths = torch.stack([WORDS, -WORDS]), torch.stack([LENGTHS, LENGTHS.flip(0)])
    regions = REGIONS[:3]
    for call in (loss, torch.func.grad(loss)):
        got = torch.vmap(call, in_dims=(0, None, 0))(words, regions, lengths)
        assert_close(got, torch.stack([call(w, regions, n) for w, n in zip(words, lengths, strict=True)]))


def test_a_second_derivative_is_refused():
    words = WORDS.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(words, REGIONS[:3], LENGTHS), words, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivative only"):
        grad.square().sum().backward()


def test_meta_tensors_have_shapes():
    scores = xf.damsm_scores(WORDS.to("meta"), REGIONS.to("meta"), LENGTHS.to("meta"))
    assert scores.shape == (3, 4)
