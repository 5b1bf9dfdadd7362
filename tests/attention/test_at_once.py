"""Attention that the extension serves without Python's checks: the same bits as with them, and nothing that is out of
the ordinary gets past."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import xmkern.functional as xf
from xmkern import masks, native
from xmkern._functional import attention as functional
from xmkern.biases import RelativeBias
from xmkern.ops.attention import op
from xmkern.testing import strategies

from .test_functional import tensors

MASKS = {
    "none": None,
    "causal": masks.causal(2),
    "band": masks.band(1, 3) | masks.band(-4, 9),
    "lengths": masks.key_lengths(torch.tensor([7, 3])),
    "segments": masks.causal() & masks.segments(torch.arange(18).view(2, 9) // 4),
    "dense": masks.dense(torch.rand(1, 4, 1, 9, generator=torch.Generator().manual_seed(0)) < 0.7),
    "prefix": masks.prefix(torch.tensor([0, 5])),
}


@pytest.fixture
def served(at_once_calls):
    return at_once_calls(functional, "attention_at_once")


def heads(inside, *shape, dtype=torch.float32, seed=0):
    """[B, H, L, D], as it lies or as a view of [B, L, H, D]."""
    B, H, L, D = shape
    (x,) = tensors((B, L, H, D) if inside else shape, dtype=dtype, grad=False, seed=seed)
    return x.transpose(1, 2) if inside else x


@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_ordinary_calls(served, mask, inside, dtype):
    query, key = heads(inside, 2, 4, 9, 24, dtype=dtype), heads(inside, 2, 2, 9, 24, dtype=dtype, seed=1)
    for depth in (24, 16):
        for scale in (None, 0.3):
            args = query, key, heads(inside, 2, 2, 9, depth, dtype=dtype, seed=2), MASKS[mask]
            with torch.no_grad():
                made = xf.attention(*args, scale=scale)
            want = xf.attention(*args, scale=scale, backend="cpu")
            assert torch.equal(made, want)
            assert made.stride() == want.stride()
    assert served == [True] * 4


def test_bits_are_those_of_the_checked_call():
    @settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(strategies.attention())
    def check(inputs):
        inputs |= {"dropout_p": 0.0, "return_lse": False}
        with torch.no_grad():
            assert torch.equal(xf.attention(**inputs), xf.attention(**inputs, backend="cpu"))

    check()


def test_parts_of_one_projection(served):
    """Heads of a fused projection are neither dense nor like what they give."""
    (projected,) = tensors((2, 9, 3, 4, 16), grad=False)
    args = projected.permute(2, 0, 3, 1, 4).unbind()
    made, want = xf.attention(*args), xf.attention(*args, backend="cpu")
    assert served == [True]
    assert torch.equal(made, want)
    assert made.stride() == want.stride()


def test_large_results(served):
    """Asked for on huge pages."""
    args = tensors(*[(2, 4, 1100, 128)] * 3, grad=False)
    made, want = xf.attention(*args), xf.attention(*args, backend="cpu")
    assert made.nbytes >= 1 << 22
    assert served == [True]
    assert torch.equal(made, want)


@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("mask", [*MASKS, "tensor"])
@pytest.mark.parametrize("lse", [False, True])
def test_gradients_of_ordinary_calls(served, lse, mask, inside, dtype):
    query, key = heads(inside, 2, 4, 9, 24, dtype=dtype), heads(inside, 2, 2, 9, 24, dtype=dtype, seed=1)
    value = heads(inside, 2, 2, 9, 16, dtype=dtype, seed=2)
    visible = MASKS["dense"].tensors[0] if mask == "tensor" else MASKS[mask]
    results = []
    for backend in ("auto", "cpu"):
        leaves = [query.clone().requires_grad_(), torch.nn.Parameter(key), value.clone().requires_grad_()]
        made = xf.attention(*leaves, visible, return_lse=lse, backend=backend)
        made = made if lse else (made,)
        grads = torch.autograd.grad(made[0], leaves, torch.ones_like(made[0]) * 0.5, retain_graph=True)
        results.append((*made, *grads))
    assert served == [True]
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


def test_gradients_through_lse_and_of_one_tensor(served):
    args = tensors((2, 4, 9, 24), (2, 4, 9, 24), (2, 4, 9, 24), grad=False)
    results = []
    for backend in ("auto", "cpu"):
        key = args[1].clone().requires_grad_()
        out, lse = xf.attention(args[0], key, args[2], return_lse=True, backend=backend)
        results.append(torch.autograd.grad(out.square().sum() + lse.sin().sum(), key))
    assert served == [True]
    assert torch.equal(results[0][0], results[1][0])


@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize("bias", ["none", "full", "of keys", "of heads", "of distances"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("frozen", [False, True])
def test_biases_and_dropout(at_once_calls, frozen, dropout_p, bias, dtype):
    """Behind the checks, the operator and its backward are served so too."""
    calls = [at_once_calls(each, "_at_once") for each in (op.attention_forward, op.attention_backward)]
    leaves = tensors((2, 4, 9, 24), (2, 2, 7, 24), (2, 2, 7, 16), dtype=dtype)
    shapes = {"full": (2, 4, 9, 7), "of keys": (2, 1, 1, 7), "of heads": (4, 1, 1), "of distances": (9 + 7 - 1, 4)}
    options = {"dropout_p": dropout_p}
    if bias != "none":
        (added,) = tensors(shapes[bias], grad=not frozen)
        options["bias"] = RelativeBias(added) if bias == "of distances" else added
        leaves += [] if frozen else [added]
    results = []
    for backend in ("auto", "cpu"):
        torch.manual_seed(2)
        out, lse = xf.attention(*leaves[:3], MASKS["causal"], **options, return_lse=True, backend=backend)
        loss = (out.float() * (out.detach() + 0.5)).sum() + lse.sin().sum()
        results.append((out, lse, *torch.autograd.grad(loss, leaves)))
    assert calls == [[True], [True]]
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


def test_a_seed_on_another_device_is_not_waited_for():
    """A graph that is captured there would break by it."""
    seed, keys = torch.empty(1, dtype=torch.int64, device="meta"), torch.zeros(2, 4, 9, 24, device="meta")
    given = (keys, keys, keys, (), (), None, None, 0.5, 0.1, seed)
    assert op.cpu.attention_at_once(*given) is None
    assert op.cpu.attention_backward_at_once(keys, None, *given[:3], keys, keys, *given[3:], False) is None


class Marked(torch.Tensor):
    pass


def test_what_is_out_of_the_ordinary_is_served_with_checks(served):
    query, key, value = tensors((2, 4, 9, 24), (2, 4, 9, 24), (2, 4, 9, 24), grad=False)
    calls = [
        ((query.mT.contiguous().mT, key, value), {}),
        ((query.as_subclass(Marked), key, value), {}),
        ((query.double(), key.double(), value.double()), {}),
        ((query[:, :, :0], key, value), {}),
        ((query, key[:, :, :0], value[:, :, :0]), {}),
        ((query.expand(2, 4, 9, 24), key, value), {"scale": 1}),
        (tuple(x.repeat(1, 1, 1, 11) for x in (query, key, value)), {}),
        ((query, key, value), {"bias": query[0, 0, :, :9].clone()}),
        ((query, key, value), {"mask": query[0, 0, :, :9].clone()}),
    ]
    for args, more in calls:
        made, want = (xf.attention(*args, **more, **other) for other in ({}, {"backend": "reference"}))
        torch.testing.assert_close(made.as_subclass(torch.Tensor), want.as_subclass(torch.Tensor))
    assert not any(served)


def test_autocast_casts(served):
    query, key, value = tensors((2, 4, 9, 24), (2, 4, 9, 24), (2, 4, 9, 24), grad=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert xf.attention(query, key, value).dtype == torch.bfloat16
    assert not served


def test_modes_see_the_call(served):
    query, key, value = tensors((2, 4, 9, 24), (2, 4, 9, 24), (2, 4, 9, 24), grad=False)
    want = xf.attention(query, key, value, backend="cpu")
    assert torch.equal(torch.compile(xf.attention, backend="eager", fullgraph=True)(query, key, value), want)
    assert torch.equal(torch.vmap(xf.attention)(query[None], key[None], value[None])[0], want)
    assert xf.attention(*(x.to("meta") for x in (query, key, value))).is_meta
    with torch.profiler.profile() as profile:
        xf.attention(query, key, value)
    assert any("attention" in event.key for event in profile.key_averages())
    assert not any(served)


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "must be a tensor"),
        (torch.zeros(2, 4, 9), "must have four axes"),
        (torch.zeros(2, 4, 9, 24).half(), "must be of one dtype"),
        (torch.zeros(3, 3, 7, 23), "axes|divides"),
    ],
)
@pytest.mark.parametrize("mask", ["none", "causal", "lengths"])
def test_what_is_wrong_is_named(at, wrong, message, mask):
    args = tensors((2, 4, 9, 24), (2, 4, 9, 24), (2, 4, 9, 24), grad=False)
    args[at] = wrong
    with torch.no_grad(), pytest.raises((ValueError, TypeError), match=message):
        xf.attention(*args, MASKS[mask])


@pytest.mark.parametrize(
    ("B", "L", "mask", "name"),
    [
        (3, 9, masks.key_lengths(torch.tensor([7, 3])), "key_lengths"),
        (3, 9, masks.segments(torch.zeros(2, 9).long()), "segments: ids"),
        (2, 8, masks.segments(torch.zeros(2, 9).long()), "segments: ids"),
        (2, 9, masks.segments(torch.zeros(2, 9).long(), torch.zeros(1, 8).long()), "segments: key_ids"),
        (3, 9, masks.dense(torch.ones(2, 1, 1, 9) > 0), "dense"),
        (2, 8, masks.causal() & masks.dense(torch.ones(2, 1, 1, 9) > 0), "dense"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(B, L, mask, name):
    args = tensors(*[(B, 4, L, 24)] * 3, grad=False)
    with torch.no_grad(), pytest.raises(ValueError, match=f"mask: {name}"):
        xf.attention(*args, mask)


@pytest.mark.parametrize("scale", ["0.5", [0.5], torch.tensor(0.5)])
def test_what_is_no_scale_is_named(scale):
    args = tensors((2, 4, 9, 24), (2, 4, 9, 24), (2, 4, 9, 24), grad=False)
    with pytest.raises(TypeError, match="scale must be a number"):
        xf.attention(*args, scale=scale)


def test_what_is_no_mask_is_named():
    args = tensors((3, 4, 9, 24), (3, 4, 9, 24), (3, 4, 9, 24), grad=False)
    with pytest.raises(TypeError, match="mask must be a tensor or a mask"):
        xf.attention(*args, "causal")
