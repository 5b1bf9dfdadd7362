"""Several problems that the extension serves without Python's passing on of addresses: the same bits as with it, and
nothing that is out of the ordinary gets past."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import xmkern.functional as xf
from xmkern import masks, native
from xmkern.biases import RelativeBias
from xmkern.ops.cross_attention import op
from xmkern.testing import strategies

from .test_functional import streams, tensors


@pytest.fixture
def served(at_once_calls):
    forward = at_once_calls(op.cross_attention_forward, "_at_once")
    backward = at_once_calls(op.cross_attention_backward, "_at_once")
    return forward, backward


@pytest.mark.parametrize("name", ["co_attention", "cross_attention"])
def test_bits_are_those_of_the_addressed_call(name):
    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(getattr(strategies, name)())
    def check(inputs):
        results = []
        for backend in ("auto", "cpu"):
            torch.manual_seed(0)
            with torch.no_grad():
                results.append(getattr(xf, name)(**inputs, backend=backend))
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)

    check()


@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_of_two_streams(served, frozen, dropout_p, dtype):
    given = streams(dtype)
    bias_a, bias_b = tensors((2, 1, 37, 21), (37 + 21 - 1, 3), grad=not frozen)
    options = {
        "mask_a": masks.key_lengths(torch.tensor([21, 4])) & masks.band(9, 5),
        "mask_b": masks.segments(torch.arange(42).view(2, 21) // 5, torch.arange(74).view(2, 37) // 6),
        "bias_a": bias_a,
        "bias_b": RelativeBias(bias_b),
        "dropout_p": dropout_p,
    }
    leaves = given if frozen else [*given, bias_a, bias_b]
    results = []
    for backend in ("auto", "cpu"):
        torch.manual_seed(3)
        outs = xf.co_attention(*given, **options, backend=backend)
        loss = sum((out.float() * (out.detach() + 0.5)).sum() for out in outs)
        results.append((*outs, *torch.autograd.grad(loss, leaves)))
    assert served == ([True], [True])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize("L", [1, 30])
def test_gradients_of_several_sources(served, L, dtype):
    shapes = [(2, 2, n, width) for width in (16, 24) for n in (20, 70)]
    query, *rest = tensors((2, 4, L, 16), *shapes, dtype=dtype)
    of_keys, of_head = tensors((1, 1, 1, 20), (4, L, 70))
    sources = [
        (rest[0], rest[2], masks.dense(torch.rand(2, 1, 1, 20) < 0.7), of_keys),
        xf.KeyValue(rest[1], rest[3], bias=of_head),
    ]
    results = []
    for backend in ("auto", "cpu"):
        out, lse = xf.cross_attention(query, sources, return_lse=True, backend=backend)
        loss = (out.float() * (out.detach() + 0.5)).sum() + lse.sin().sum()
        results.append((out, lse, *torch.autograd.grad(loss, [query, *rest, of_keys, of_head])))
    assert served == ([True], [True])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_seeds_on_another_device_are_not_waited_for():
    seeds, keys = torch.empty(1, dtype=torch.int64, device="meta"), (torch.zeros(2, 4, 9, 24, device="meta"),)
    given = (keys, keys, keys, (1,), (0, 0), (), (None,), (None,), (0.5,), 0.1, seeds)
    assert op.cpu.cross_attention_at_once(*given) is None
    assert op.cpu.cross_attention_backward_at_once(keys, (None,), *given[:3], keys, keys, *given[3:], (False,)) is None


def test_what_is_out_of_the_ordinary_is_served_with_addresses(served):
    query, key, value = tensors((2, 4, 9, 24), (2, 4, 9, 24), (2, 4, 9, 24), grad=False)
    (table,) = tensors((5, 4), grad=False)
    buckets = torch.randint(5, (9, 9), dtype=torch.int32)
    calls = [
        (query.mT.contiguous().mT, (key, value)),
        (query, (key, value.mT.contiguous().mT)),
        (query.double(), (key.double(), value.double())),
        (query[:, :, :0], (key, value)),
        (query, (key[:, :, :0], value[:, :, :0])),
        (query, (key, value, None, RelativeBias(table, buckets))),
    ]
    for x, source in calls:
        made, want = (xf.cross_attention(x, [source], **other) for other in ({}, {"backend": "reference"}))
        torch.testing.assert_close(made, want)
    assert served == ([False] * len(calls), [])
