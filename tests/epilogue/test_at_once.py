"""Tails that the extension serves without Python's checks: the same bits as with them, and nothing that is out of the
ordinary gets past."""

import pytest
import torch

import xmkern.functional as xf
from xmkern import native
from xmkern._functional import epilogue as functional
from xmkern.ops.epilogue import cpu

D = 40
TENSORS = {
    name: torch.randn(shape, generator=torch.Generator().manual_seed(i))
    for i, (name, shape) in enumerate(
        {
            "x": (3, 5, D), "residual": (3, 5, D), "gates": (3, 5, D), "one": (1,), "none": (), "vector": (D,),
            "weight": (D,), "bias": (D,), "linear_bias": (D,),
        }.items()
    )
}  # fmt: skip
NORM = ("x", "residual", "weight", "bias", "linear_bias")
CALLS = [
    ("add_layer_norm", NORM, {}),
    ("add_layer_norm", ("x",), {}),
    ("add_layer_norm", NORM, {"return_sum": True, "pb_relax": True, "eps": 1e-3}),
    ("add_rms_norm", ("x", "residual", "weight"), {"return_sum": True}),
    ("sandwich_layer_norm", NORM, {}),
    ("sandwich_layer_norm", NORM, {"next_norm": True, "next_weight": TENSORS["vector"]}),
    ("bias_dropout_add", ("x", "residual", "bias"), {}),
    ("gated_residual", ("x", "residual"), {}),
    ("gated_residual", ("x", "residual", "bias"), {"gate": TENSORS["one"], "activation": "tanh"}),
    ("gated_residual", ("x", "residual"), {"gate": TENSORS["none"], "activation": "sigmoid"}),
    ("gated_residual", ("x", "residual"), {"gate": TENSORS["vector"]}),
    ("gated_residual", ("x", "residual"), {"gate": TENSORS["gates"], "activation": "sigmoid"}),
    ("bias_activation", ("x", "bias"), {"activation": "quick_gelu"}),
    ("bias_activation", ("x",), {"activation": "relu"}),
    ("gated_activation", ("x", "bias"), {"activation": "silu"}),
]


def inputs(names, more, dtype=torch.float32):
    given = {name: TENSORS[name] for name in names} | more
    return {name: value.to(dtype) if isinstance(value, torch.Tensor) else value for name, value in given.items()}


def results(name, given, **more):
    made = getattr(xf, name)(**given, **more)
    return made if isinstance(made, tuple) else (made,)


@pytest.fixture
def served(at_once_calls):
    return at_once_calls(functional.epilogue, "add_norm_at_once", "gated_residual_at_once", "bias_activation_at_once")


@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize(("name", "names", "more"), CALLS)
def test_ordinary_calls(served, name, names, more, dtype):
    given = inputs(names, more, dtype)
    made = results(name, given)
    assert served == [True]
    for a, b in zip(made, results(name, given, backend="cpu"), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize(("name", "names", "more"), CALLS)
def test_parameters_may_be_of_another_dtype(served, name, names, more):
    given = inputs(names, more, torch.bfloat16)
    given |= {n: TENSORS[n] for n in names if n not in ("x", "residual")}
    made = results(name, given)
    assert served == [True]
    for a, b in zip(made, results(name, given, backend="cpu"), strict=True):
        assert torch.equal(a, b)


def test_a_seed_on_another_device_is_not_waited_for():
    """A graph that is captured there would break by it."""
    seed, x = torch.empty(1, dtype=torch.int64, device="meta"), torch.zeros(2, 3, 8, device="meta")
    assert cpu.add_norm_at_once(x, x, *[None] * 5, False, True, False, False, False, 1e-5, 0.1, seed) is None
    assert cpu.add_norm_backward_at_once(x, None, x, x, None, x, *[None] * 5, False, False, True, 0.1, seed) is None


class Marked(torch.Tensor):
    pass


def changed(given):
    """The same call, with something out of the ordinary in it."""
    x = given["x"]
    yield {"x": x.mT.contiguous().mT}
    yield {"x": x.clone().as_subclass(Marked)}
    yield {name: v.double() if isinstance(v, torch.Tensor) else v for name, v in given.items()}
    yield {name: v[:0] if isinstance(v, torch.Tensor) and v.dim() == 3 else v for name, v in given.items()}
    if "residual" in given:
        yield {"residual": given["residual"].bfloat16()}


@pytest.mark.parametrize(("name", "names", "more"), CALLS)
def test_what_is_out_of_the_ordinary_is_served_with_checks(served, name, names, more):
    given = inputs(names, more)
    for change in changed(given):
        made = results(name, given | change)
        want = results(name, given | change, backend="reference")
        assert not any(served)
        for a, b in zip(made, want, strict=True):
            torch.testing.assert_close(a.as_subclass(torch.Tensor), b.as_subclass(torch.Tensor))


def gradients(name, given, only=None, **more):
    """Of all tensors, or of one, by dense gradients of the results; and whether each result has a gradient."""
    torch.manual_seed(0)
    leaves = {
        n: torch.nn.Parameter(v.clone(), requires_grad=only in (None, n))
        for n, v in given.items()
        if isinstance(v, torch.Tensor)
    }
    made = results(name, given | leaves, **more)
    torch.autograd.backward(made, [torch.randn_like(y) for y in made])
    return {n: v.grad for n, v in leaves.items()}


@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize(("name", "names", "more"), CALLS)
def test_gradients_of_ordinary_calls(served, name, names, more, dtype):
    given = inputs(names, more, dtype)
    for only in (None, *(n for n, v in given.items() if isinstance(v, torch.Tensor))):
        made, want = (gradients(name, given, only, **other) for other in ({}, {"backend": "cpu"}))
        for n, grad in want.items():
            assert (grad is None) == (only not in (None, n))
            assert grad is None if made[n] is None else torch.equal(made[n], grad), n
    assert all(served)


@pytest.mark.parametrize("name", ["add_layer_norm", "sandwich_layer_norm", "bias_dropout_add"])
def test_dropout_is_that_of_the_checked_call(name):
    given = inputs(("x", "residual", "bias"), {"dropout_p": 0.3})
    made, want = (gradients(name, given, **other) for other in ({}, {"backend": "cpu"}))
    assert all(torch.equal(made[n], want[n]) for n in want)
    for other in made, want:
        assert (other["x"] == 0).any() or name != "bias_dropout_add"


def test_gradients_that_are_not_dense():
    given = inputs(*CALLS[0][1:])
    grads = []
    for backend in ("auto", "cpu"):
        x = given["x"].clone().requires_grad_()
        xf.add_layer_norm(**given | {"x": x}, backend=backend).sum().backward()  # one number for all
        grads.append(x.grad)
    assert torch.equal(*grads)


def test_a_second_derivative_is_refused():
    given = inputs(*CALLS[0][1:])
    x = given["x"].clone().requires_grad_()
    (grad,) = torch.autograd.grad(xf.add_layer_norm(**given | {"x": x}).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivative only"):
        grad.sum().backward()


def test_gradients_are_not_lost_by_a_call_without_them():
    given = inputs(*CALLS[0][1:])
    x = given["x"].clone().requires_grad_()
    with torch.no_grad():
        assert not xf.add_layer_norm(**given | {"x": x}).requires_grad
    xf.add_layer_norm(**given | {"x": x}).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("add_layer_norm", {"x": 3}, "x must be a tensor"),
        ("add_layer_norm", {"x": TENSORS["none"]}, "x must have a last axis"),
        ("add_layer_norm", {"x": TENSORS["x"], "residual": TENSORS["x"][:2]}, "residual must be of shape"),
        ("add_layer_norm", {"x": TENSORS["x"], "weight": TENSORS["x"]}, r"weight must be of shape \[D\]"),
        ("add_layer_norm", {"x": TENSORS["x"], "bias": TENSORS["one"]}, r"bias must be of shape \[D\]"),
        ("add_layer_norm", {"x": TENSORS["x"], "linear_bias": TENSORS["vector"].long()}, "linear_bias must be of"),
        ("add_layer_norm", {"x": TENSORS["x"], "eps": -1.0}, "eps must be at least 0"),
        ("bias_activation", {"x": TENSORS["x"], "activation": "tanh"}, "activation must be one of"),
        ("gated_activation", {"x": TENSORS["x"][..., :3].contiguous()}, "even last axis"),
        ("gated_residual", {"x": TENSORS["x"], "residual": None}, "residual must be a tensor"),
        ("gated_residual", {"x": TENSORS["x"], "residual": TENSORS["x"], "activation": "tanh"}, "gate must be given"),
        ("gated_residual", {"x": TENSORS["x"], "residual": TENSORS["x"], "gate": TENSORS["x"][0]}, "gate must be of"),
    ],
)
def test_what_is_wrong_is_named(name, given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        getattr(xf, name)(**given)
