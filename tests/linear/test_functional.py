"""The product of a linear layer, wherever it is computed."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn
from torch.nn import functional as F

import xmkern.functional as xf
import xmkern.nn
from xmkern import native
from xmkern.ops.linear import op, torch_crawls
from xmkern.ops.registry import ops
from xmkern.testing import assert_matches_reference, strategies, threads


def operands(rows, dtype=torch.float32, inner=256, outer=320):
    torch.manual_seed(rows)
    x, weight, bias = torch.randn(2, rows, inner), torch.randn(outer, inner), torch.randn(outer)
    return {"x": x.to(dtype), "weight": weight.to(dtype), "bias": bias.to(dtype)}


def graded(*args, **kwargs):
    return {name: x.requires_grad_() for name, x in operands(*args, **kwargs).items()}


def test_the_kernel_matches_the_reference(capability):
    @settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(strategies.linear())
    def check(inputs):
        assert_matches_reference("linear", inputs, backend="cpu")

    check()


# Several passes over the depth, rows that are cut between threads, and results that go past the caches.
@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        ((150, 2500, 130), torch.float32),
        ((1100, 1100, 24), torch.float32),
        ((2100, 16, 1024), torch.float32),
        ((4100, 16, 1024), torch.float16),
    ],
)
def test_large_sizes(sizes, dtype, capability):
    rows, inner, outer = sizes
    assert_matches_reference("linear", graded(rows, dtype, inner=inner, outer=outer), backend="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 40, 333])
def test_value_and_gradients(rows, bias, dtype):
    inputs = {name: x for name, x in graded(rows, dtype).items() if bias or name != "bias"}
    assert_matches_reference(xf.linear, inputs, reference=F.linear)


@pytest.mark.skipif(not native.cpu_capabilities(), reason="no native extension")
def test_the_bits_do_not_depend_on_threads():
    results = []
    for count in (1, 2, 5):
        x = graded(333)
        with threads(count):
            out = xf.linear(**x, backend="cpu")
            results.append([out, *torch.autograd.grad(out.square().sum(), [*x.values()])[:2]])
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


def who_serves(**inputs):
    return "xmkern" if "_Linear" in type(xf.linear(**inputs).grad_fn).__name__ else "torch"


@pytest.mark.skipif(native.cpu_capability() in (None, "baseline"), reason="torch serves")
def test_who_serves():
    wide = native.cpu_capability() != "avx2"
    assert who_serves(**graded(40)) == ("xmkern" if wide and not native.MADE_BY_INTEL else "torch")
    assert who_serves(**graded(256)) == ("torch" if native.MADE_BY_INTEL else "xmkern")
    for case in ({name: y.double() for name, y in graded(40).items()}, graded(1, inner=8, outer=8)):
        assert who_serves(**case) == "torch"
        assert torch.equal(xf.linear(**case), F.linear(*case.values()))
    for dtype in (torch.bfloat16, torch.float16):
        assert who_serves(**graded(2, dtype)) == ("xmkern" if torch_crawls(dtype) else "torch")
        assert who_serves(**graded(1, dtype, inner=8, outer=8)) == "torch"


@pytest.mark.skipif(native.cpu_capability() in (None, "baseline"), reason="torch serves")
def test_few_rows_of_a_large_weight_are_served_where_no_gradient_is_wanted(monkeypatch):
    few, called, wide = operands(3, inner=512, outer=512), [], native.cpu_capability().startswith("avx512")
    monkeypatch.setattr("xmkern._functional.linear._product", lambda *args: called.append(args))
    with torch.no_grad():
        xf.linear(**few)
        xf.linear(**{name: y[..., :8].contiguous() if name != "bias" else y for name, y in few.items()})
        slow = [dtype for dtype in (torch.bfloat16, torch.float16) if torch_crawls(dtype)]
        for dtype in slow:
            row = operands(1, dtype, inner=512, outer=512)
            if dtype == torch.float16 or not wide:
                xf.linear(row["x"][0], row["weight"])  # torch reads the weight as fast
            xf.linear(row["x"], row["weight"])
        if wide:
            row = operands(1, torch.bfloat16, inner=512, outer=512)
            xf.linear(row["x"][0, :1], row["weight"])
            xf.linear(row["x"][0, :1, :8], row["weight"][:, :8].contiguous())
    assert len(called) == 1 + len(slow) + wide


@pytest.mark.skipif(not native.READS_TENSORS, reason="the extension cannot read tensors")
@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize("rows", [1, 5, 16])
def test_what_is_served_at_once(at_once_calls, rows, dtype):
    """The same bits as the call that passes addresses."""
    read_wide = dtype == torch.bfloat16 and native.cpu_capability().startswith("avx512")
    if dtype != torch.float32 and not torch_crawls(dtype) and not read_wide:
        pytest.skip("oneDNN serves")
    served = at_once_calls(op.linear_forward, "_at_once")
    x, weight, bias = operands(rows, dtype, inner=515, outer=530).values()
    across = weight.t().contiguous().t()
    wide = torch.cat([weight, weight], 1)[:, :515]
    with torch.no_grad():
        for args in ((x, weight, bias), (x, weight, None), (x[0], across, bias), (x, wide, bias)):
            made, want = op.linear_forward(*args), op.linear_forward(*args, backend="cpu")
            assert torch.equal(made, want)
            assert made.shape == want.shape
        assert served == [True] * 4
        for args in ((torch.cat([x, x], -1)[..., :515], weight, bias), (x, weight[:, :1].expand(530, 515), bias)):
            torch.testing.assert_close(op.linear_forward(*args), F.linear(*args), rtol=2e-2, atol=2e-2)
    assert served[4:] == [False, False]


def test_only_what_is_asked_for_is_computed():
    x, weight, bias = operands(40).values()
    for wanted in (x, weight, bias):
        wanted.requires_grad_()
        (found,) = torch.autograd.grad(xf.linear(x, weight, bias).sum(), wanted)
        (expected,) = torch.autograd.grad(F.linear(x, weight, bias).sum(), wanted)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        wanted.requires_grad_(False)


def test_gradients_that_lie_otherwise():
    x = graded(40)
    for change in (torch.sum, lambda out: (out.transpose(0, 2) * torch.arange(2)).sum()):
        found, expected = (
            torch.autograd.grad(change(call(*x.values())), [*x.values()]) for call in (xf.linear, F.linear)
        )
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_gradient_is_differentiated():
    x = graded(40)
    found, expected = (
        torch.autograd.grad(
            torch.autograd.grad(call(*x.values()).square().sum(), x["x"], create_graph=True)[0].square().mean(),
            [x["x"], x["weight"]],
        )
        for call in (xf.linear, F.linear)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_under_a_compiler(dtype):
    inputs = graded(40, dtype)
    call = torch.compile(xf.linear, backend="aot_eager", fullgraph=True)
    assert_matches_reference(call, inputs, reference=F.linear)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype):
    x = graded(40)
    with torch.autocast("cpu", dtype):
        found, expected = (call(*x.values()) for call in (xf.linear, F.linear))
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    grads = [torch.autograd.grad(out.float().square().sum(), [*x.values()]) for out in (found, expected)]
    for a, b in zip(*grads, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2 * float(b.abs().max()))


def test_under_transforms():
    layer, x = nn.Linear(256, 320), operands(40)["x"]
    for backend in ("auto", "cpu"):
        if backend == "cpu" and native.why_missing():
            continue
        mapped = torch.func.vmap(lambda y, b=backend: xf.linear(y, layer.weight, layer.bias, backend=b))(x)
        torch.testing.assert_close(mapped, layer(x))


def test_what_torch_alone_can_read():
    x, weight, bias = operands(40).values()
    on_meta = xf.linear(*(each.to("meta") for each in (x, weight, bias)))
    assert on_meta.is_meta
    assert on_meta.shape == (2, 40, 320)
    nested = torch.nested.nested_tensor([x[0], x[1, :30]])
    for ours, padded in zip(xf.linear(nested, weight, bias).unbind(), F.linear(x, weight, bias), strict=True):
        torch.testing.assert_close(ours, padded[: len(ours)])
    torch.testing.assert_close(xf.linear(x[0], weight.to_sparse_csr()), F.linear(x[0], weight), rtol=1e-4, atol=1e-4)
    with pytest.raises(TypeError, match="must be Tensor"):
        xf.linear(1.0, weight)


@pytest.mark.parametrize("name", ["linear", "linear_backward"])
def test_the_operator_is_sound(name):
    op = ops()[name]
    torch.library.opcheck(op.overload, (*op.sample(), "auto"))


WRONG = [
    (lambda x, w, b: xf.linear(x, w[:, 1:], b), ValueError, r"weight must be \[M, N\] with N that of x \[..., N\]"),
    (lambda x, w, b: xf.linear(x, w[0], b), ValueError, r"weight must be \[M, N\] .*, not \[256\]"),
    (lambda x, w, b: xf.linear(x, w, b[1:]), ValueError, r"bias must be \[M\] = \[320\] .*, not \[319\]"),
    (lambda x, w, b: xf.linear(x, w.double(), b), TypeError, "weight must be of torch.float32 as x is"),
    (lambda x, w, b: xf.linear(x, w, b.to("meta")), ValueError, "bias must be on cpu as x is, not on meta"),
    (lambda x, w, b: xf.linear(x, w, b, backend="gpu"), ValueError, "backend must be 'auto' or one of 'onednn', "),
    (lambda x, w, b: xf.linear(x.double(), w.double(), backend="cpu"), ValueError, "float32, bfloat16 or float16, not"),
    (lambda x, w, b: xf.linear(x, w, backend="onednn"), ValueError, "oneDNN is asked in half precision only, not"),
]


@pytest.mark.parametrize(("call", "kind", "message"), WRONG)
def test_a_wrong_argument_is_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call(*operands(40).values())


def test_the_layer_is_torchs():
    layer = xmkern.nn.Linear(256, 320, bias=False)
    twin = nn.Linear(256, 320, bias=False)
    twin.load_state_dict(layer.state_dict())
    x = operands(40)["x"]
    torch.testing.assert_close(layer(x), twin(x))
