"""open_clip's losses on fused kernels, one process; tests/distributed compares them on several."""

import copy
import inspect
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from tests.nn import open_clip_loss
from xmkern.nn import ClipLoss, SigLipLoss
from xmkern.testing import assert_matches_reference

PAIRS = {"clip": (ClipLoss, open_clip_loss.ClipLoss), "siglip": (SigLipLoss, open_clip_loss.SigLipLoss)}


@pytest.fixture(params=PAIRS)
def pair(request):
    return PAIRS[request.param]


def features(rows, columns, dtype=torch.float32):
    torch.manual_seed(rows)
    x, y = torch.randn(2, rows, columns)
    return normalize(x + y, dim=1).to(dtype), normalize(y, dim=1).to(dtype)


def test_constructor_and_forward_take_what_open_clips_take(pair):
    for method in ("__init__", "forward"):
        ours, theirs = (inspect.signature(getattr(each, method)).parameters for each in pair)
        assert list(ours)[: len(theirs)] == list(theirs)
        assert [ours[name].default for name in theirs] == [each.default for each in theirs.values()]
        assert set(ours) - set(theirs) <= {"chunk_size"}  # of open_clip's later versions


def operands(rows, columns, scale, dtype=torch.float32):
    numbers = (torch.tensor(each, dtype=torch.promote_types(dtype, torch.float32)) for each in (scale, -2.0))
    return [each.requires_grad_() for each in (*features(rows, columns, dtype), *numbers)]


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 80), st.booleans(), st.booleans())
def test_equals_open_clips(rows, columns, scale, with_bias, flag):
    inputs = operands(rows, columns, scale, torch.float64)[: 4 if with_bias else 3]
    for pair in PAIRS.values():
        results = []
        for loss in pair:
            out = loss(cache_labels=flag)(*inputs, **({} if with_bias else {"logit_bias": None}))
            results.append([out, *torch.autograd.grad(out, inputs)])
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_is_as_exact_as_open_clips(pair, dtype, scale):
    x, y, *numbers = operands(60, 24, scale, dtype)
    wide = numbers[0].dtype
    # The gradient of a bias that changes no loss is all rounding, and is judged beside those of the features.
    vector = torch.cat([each.detach().to(wide).flatten() for each in (x, y, *numbers)])

    def run(loss):
        def call(vector):
            *given, scale, bias = vector.split([x.numel(), y.numel(), 1, 1])
            given = [each.view(x.shape).to(dtype if vector.dtype == wide else vector.dtype) for each in given]
            return loss(*given, scale[0], bias[0]).to(vector.dtype)

        return call

    assert_matches_reference(run(pair[0]()), {"vector": vector.requires_grad_()}, reference=run(pair[1]()))


def test_labels_are_cached_or_not_whatever_the_batch(pair):
    loss = pair[0](cache_labels=True)
    for rows in (5, 9, 5):
        x, y = features(rows, 4)
        torch.testing.assert_close(loss(x, y, 3.0, -1.0), pair[1]()(x, y, 3.0, torch.tensor(-1.0)))


def test_output_dict(pair):
    x, y = features(6, 4)
    for loss in (each() for each in pair):
        assert list(loss(x, y, 3.0, torch.tensor(0.5), output_dict=True)) == ["contrastive_loss"]
    ours = pair[0]()
    assert torch.equal(ours(x, y, 3.0, 0.5, output_dict=True)["contrastive_loss"], ours(x, y, 3.0, 0.5))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies(pair, copied):
    x, y = features(6, 4)
    loss = pair[0](cache_labels=True)
    twin = copied(loss)
    assert torch.equal(twin(x, y, 3.0, 0.5), loss(x, y, 3.0, 0.5))
    assert {k: v for k, v in vars(twin).items() if k[0] != "_"} == {k: v for k, v in vars(loss).items() if k[0] != "_"}


def test_has_no_state(pair):
    assert not pair[0]().state_dict()


def test_compiles_without_a_break(pair):
    torch._dynamo.reset()
    loss = pair[0]()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (6, 9):
        results = []
        for called in (loss, compiled):
            x, y = (each.requires_grad_() for each in features(rows, 4))
            scale, bias = (torch.tensor(each, requires_grad=True) for each in (1.1, -1.0))
            out = called(x, y, scale.exp(), bias, output_dict=True)["contrastive_loss"]
            results.append([out, *torch.autograd.grad(out, [x, y, scale, bias])])
        torch.testing.assert_close(*results)


def test_says_what_does_not_fit():
    with pytest.raises(ValueError, match="dist_impl must be 'bidir', 'shift', 'reduce' or 'gather', not 'ring'"):
        SigLipLoss(dist_impl="ring")
    with pytest.raises(ValueError, match="use_horovod must be False"):
        ClipLoss(use_horovod=True, world_size=2)
    ClipLoss(use_horovod=True)
