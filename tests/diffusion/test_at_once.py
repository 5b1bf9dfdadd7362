"""Calls that the extension serves without Python's checks: the same bits as with them, and nothing that is out of the
ordinary gets past."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import xmkern.functional as xf
from xmkern import native
from xmkern._functional import diffusion as functional
from xmkern.testing import strategies

from .test_functional import STEP, many, normal

SETTINGS = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=100)
TABLE = torch.linspace(0.99, 0.01, 10)


def same(results, others):
    for a, b in zip(results, others, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            assert torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.fixture
def served(at_once_calls):
    return at_once_calls(functional.ops, "step_at_once", "q_sample_at_once", "normals_at_once")


def test_tensors_can_be_read():
    assert native.READS_TENSORS


@pytest.mark.parametrize("name", ["diffusion_step", "q_sample"])
def test_bits_are_those_of_the_checked_call(name):
    @SETTINGS
    @given(getattr(strategies, name)())
    def check(inputs):
        call = getattr(xf, name)
        checked = {**inputs, "backend": "reference" if inputs[next(iter(inputs))].dtype == torch.float64 else "cpu"}
        with torch.no_grad():
            same(call(**inputs), call(**checked))

    check()


@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize(
    "more",
    [
        {"seed": 3, "offset": 8},
        {"noise": normal(2, 4, 5, 7, seed=5)},
        {"seed": -1, "variance": "learned"},
        {"seed": 3, "guidance": 2.5},
        {"seed": 3, "guidance": 2.5, "guidance_rescale": 0.7, "variance": "learned_range", "clip": 1.0},
        {"seed": 3, "clip": xf.DynamicThreshold(0.9, 2.0), "return_original": False},
        {"seed": 3, "history": [normal(2, 4, 5, 7, seed=6)]},
    ],
)
def test_ordinary_steps(served, dtype, more):
    more = {name: [h.to(dtype) for h in value] if name == "history" else value for name, value in more.items()}
    coefficients = STEP._replace(history=(0.3,) * len(more.get("history", ())), log_variances=(-3.0, -1.0))
    shape = (4 if "guidance" in more else 2, 8 if "variance" in more else 4, 5, 7)
    args = normal(2, 4, 5, 7, dtype=dtype), normal(*shape, seed=1, dtype=dtype), coefficients
    result = xf.diffusion_step(*args, **more)
    assert served == [True]
    same(result, xf.diffusion_step(*args, **more, backend="cpu"))
    out = torch.empty_like(result[0]), None if result[1] is None else torch.empty_like(result[1])
    assert xf.diffusion_step(*args, **more, out=out)[0] is out[0]
    assert served == [True, True]
    same(out, result)
    first = args[0].clone()
    assert xf.diffusion_step(first, *args[1:], **more, out=(first, None)) == (first, None)
    same([first], result[:1])


@pytest.mark.parametrize("target", ["epsilon", "sample", "v", None])
@pytest.mark.parametrize("noise", [{"seed": 2**63 - 1}, {"noise": normal(3, 2, 5, seed=2)}])
@pytest.mark.parametrize("time", [torch.int32, torch.int64])
@pytest.mark.parametrize("level", [torch.float32, torch.float64])
def test_ordinary_noise(served, target, noise, time, level):
    args = normal(3, 2, 5), torch.tensor([0, 9, 4], dtype=time), TABLE.to(level)
    result = xf.q_sample(*args, **noise, target=target)
    assert served == [True]
    same(result, xf.q_sample(*args, **noise, target=target, backend="cpu"))


def test_ordinary_normals(served):
    for dtype in native.DTYPES:
        assert torch.equal(
            xf.philox_normal((3, 5), 7, 2, dtype=dtype), xf.philox_normal((15,), 7, 2).view(3, 5).to(dtype)
        )
    assert all(served)


class Marked(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "change",
    [
        {"sample": normal(2, 5, 4).mT},
        {"model_output": normal(2, 5, 4, seed=1).mT},
        {"noise": normal(2, 5, 4, seed=2).mT},
        {"sample": normal(2, 4, 5).as_subclass(Marked)},
        {"sample": normal(2, 4, 5).requires_grad_()},
        {"model_output": torch.nn.Parameter(normal(2, 4, 5, seed=1))},
        {name: normal(2, 4, 5, seed=i).double() for i, name in enumerate(("sample", "model_output", "noise"))},
        {"sample": normal(2, 0, 5), "model_output": normal(2, 0, 5), "noise": normal(2, 0, 5)},
        {"noise": None, "seed": 2**64 - 1},
        {"known": normal(2, 4, 5), "mask": normal(2, 4, 5) > 0},
    ],
)
def test_what_is_out_of_the_ordinary_is_served_with_checks(served, change):
    given_ = {"sample": normal(2, 4, 5), "model_output": normal(2, 4, 5, seed=1), "noise": normal(2, 4, 5, seed=2)}
    given_ |= {"coefficients": STEP, **change}
    result = xf.diffusion_step(**given_)
    assert not any(served)
    torch.testing.assert_close(result[0], xf.diffusion_step(**given_, backend="reference")[0])
    assert result[0].requires_grad == any(getattr(x, "requires_grad", False) for x in given_.values())


def test_modes_see_the_call(served):
    with torch.device("meta"):
        x = torch.empty(2, 4, 5)
    assert xf.diffusion_step(x, x, STEP, seed=1)[0].is_meta
    x = normal(2, 4, 5)
    compiled = torch.compile(lambda x: xf.diffusion_step(x, x, STEP, seed=1)[0], backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), xf.diffusion_step(x, x, STEP, seed=1, backend="cpu")[0])
    mapped = torch.vmap(lambda x: xf.diffusion_step(x, x, STEP._replace(noise=0.0))[0])(x[None])
    assert torch.equal(mapped[0], xf.diffusion_step(x, x, STEP._replace(noise=0.0), backend="cpu")[0])
    assert not any(served)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample": None}, "sample must be a tensor, not NoneType"),
        ({"model_output": normal(2, 4, 6)}, r"model_output must be of shape \[2, 4, 5\]"),
        ({"model_output": normal(2, 4, 5).half()}, "model_output must be torch.float32, not torch.float16"),
        ({"history": [normal(2, 4)]}, r"history\[0\] must be of shape"),
        ({"seed": 1.0}, "seed must be an int"),
        ({"seed": 1, "noise": normal(2, 4, 5)}, "noise and seed must not both"),
        ({"seed": None}, "noise or seed must be given"),
        ({"offset": -1}, "offset must be from 0"),
        ({"out": (normal(2, 4, 5), normal(2, 5, 4).mT)}, r"out\[1\] must be contiguous"),
        ({"out": (normal(2, 4), None)}, r"out\[0\] must be of shape"),
        ({"variance": "learned"}, r"model_output must be of shape \[2, 8, 5\]"),
        ({"guidance": 2.0}, r"model_output must be of shape \[4, 4, 5\]"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    coefficients = STEP._replace(history=(0.5,) * len(change.get("history", ())))
    given_ = {"sample": normal(2, 4, 5), "model_output": normal(2, 4, 5), "seed": 1, "coefficients": coefficients}
    with pytest.raises((ValueError, TypeError), match=message):
        xf.diffusion_step(**given_ | change)


def test_a_time_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"t must be 0 to 9, not 10 as t\[1\] is"):
        xf.q_sample(normal(2, 3), torch.tensor([0, 10]), TABLE, seed=1)
    with pytest.raises(ValueError, match="target must be"):
        xf.q_sample(normal(2, 3), torch.tensor([0, 9]), TABLE, seed=1, target="x")


def test_everything_at_once_with_checks():
    same(xf.diffusion_step(**many()), xf.diffusion_step(**many(), backend="cpu"))
