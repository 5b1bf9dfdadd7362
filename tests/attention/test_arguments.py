"""What attention does with its arguments: errors by name, autocast, dropout, backends, the call past the dispatcher."""

import math

import pytest
import torch

import xmkern.functional as xf
from xmkern import masks
from xmkern.biases import RelativeBias
from xmkern.ops.attention.op import attention_forward
from xmkern.ops.attention.reference import keep_mask


def tensors(*shapes, dtype=torch.float32, grad=False):
    torch.manual_seed(0)
    return [torch.randn(shape).to(dtype).requires_grad_(grad) for shape in shapes]


Q, K = tensors((2, 4, 5, 8), (2, 2, 9, 8))
WIDE, META = (Q.repeat(1, 1, 1, 40), K.repeat(1, 1, 1, 40)), K.to("meta")


@pytest.mark.parametrize(
    ("args", "options", "error", "words"),
    [
        (([1.0], K, K), {}, TypeError, "query must be a tensor, not list"),
        ((Q[0], K, K), {}, ValueError, r"query must have four axes, \[B, H, L, D\], not shape \[4, 5, 8\]"),
        ((Q, K, K[0]), {}, ValueError, r"value must have four axes, \[B, Hk, S, Dv\]"),
        ((Q.int(), K.int(), K.int()), {}, TypeError, "must be of one dtype, float32, .* not torch.int32"),
        ((Q, K[:1], K[:1]), {}, ValueError, r"key must have the axes \[B, Hk, S, D\] with B = 2 and D = 8"),
        ((Q, K[..., :4], K), {}, ValueError, r"key must have the axes .* D = 8, not \[2, 2, 9, 4\]"),
        ((Q[:, :3], K, K), {}, ValueError, "key must have a number of heads Hk that divides query's, 3, not 2"),
        ((Q, K[:, :0], K[:, :0]), {}, ValueError, "divides query's, 4, not 0"),
        ((Q, K, K[:, :, :8]), {}, ValueError, r"value must have the axes .* not \[2, 2, 8, 8\]"),
        ((Q[..., :0], K[..., :0], K), {}, ValueError, "query must have a head size D of at least 1"),
        ((Q, K.double(), K), {}, TypeError, "must be of one dtype, .* not torch.float32, torch.float64"),
        ((Q, META, K), {}, ValueError, "key and value must be on cpu as query is, not on meta and cpu"),
        ((Q, K, K, "causal"), {}, TypeError, "mask must be a tensor or a mask of xmkern.masks, not str"),
        ((Q, K, K, torch.ones(5, 9).int()), {}, TypeError, "mask must be of floating point or bool, not torch.int32"),
        ((Q, K, K, torch.ones(5, 8).bool()), {}, ValueError, r"mask: dense must fit \[B, H, L, S\] = \[2, 4, 5, 9\]"),
        ((Q, K, K, torch.ones(5, 8)), {}, ValueError, r"mask must broadcast to \[B, H, L, S\] = \[2, 4, 5, 9\]"),
        ((Q, K, K, torch.ones(1, 2, 4, 5, 9).bool()), {}, ValueError, "mask must have at most four axes"),
        ((Q, K, K, masks.key_lengths(torch.ones(3).int())), {}, ValueError, r"key_lengths must fit \[B\] = \[2\]"),
        ((Q, K, K, masks.key_lengths(META[0, :, 0, 0].long())), {}, ValueError, "mask must be on cpu .* not on meta"),
        ((Q, K, K), {"bias": 1.0}, TypeError, "bias must be a tensor or a RelativeBias, not float"),
        ((Q, K, K), {"bias": torch.ones(5, 9).bool()}, TypeError, "bias must be of floating point, not torch.bool"),
        ((Q, K, K), {"bias": torch.ones(3, 5, 9)}, ValueError, r"bias must broadcast to .* not \[1, 3, 5, 9\]"),
        ((Q, K, K), {"bias": torch.ones(1, 2, 4, 5, 9)}, ValueError, "bias must broadcast to"),
        ((Q, K, K), {"bias": META[0, 0, :5, :1]}, ValueError, "bias must be on cpu as query is, not on meta"),
        ((Q, K, K), {"bias": RelativeBias(torch.ones(5, 4))}, ValueError, "L . S - 1 = 13 rows"),
        ((Q, K, K, torch.ones(5, 9)), {"bias": 1.0}, TypeError, "bias must be a tensor or a RelativeBias, not float"),
        ((Q, K, K, torch.ones(5, 9)), {"bias": torch.ones(5, 9).bool()}, TypeError, "bias must be of floating point"),
        ((Q, K, K, torch.ones(5, 9)), {"bias": torch.ones(3, 5, 9)}, ValueError, "bias must broadcast to"),
        ((Q, K, K, torch.ones(5, 9)), {"bias": RelativeBias(torch.ones(13, 3))}, ValueError, "1 or H = 4 columns"),
        ((Q, K, K), {"scale": torch.tensor(0.3)}, TypeError, "scale must be a number, not a tensor, .* no gradient"),
        ((Q, K, K), {"dropout_p": "a"}, TypeError, "dropout_p must be a number, not str"),
        ((torch.nested.nested_tensor([*Q]), K, K), {}, TypeError, "query must not be nested: pad it"),
        ((Q, K.to_sparse(), K), {}, TypeError, "key must be dense, not of layout torch.sparse_coo"),
        ((Q, K, K), {"dropout_p": -0.1}, ValueError, "dropout_p must be 0 to 1, not -0.1"),
        ((Q, K, K), {"backend": "warp"}, ValueError, "backend must be 'auto' or one of 'cpu', 'triton', 'reference'"),
        ((Q.double(), K.double(), K.double()), {"backend": "cpu"}, ValueError, "cannot serve this call.*torch.float64"),
        ((*WIDE, K), {"backend": "cpu"}, ValueError, "heads of up to 256 numbers, not 320"),
    ],
)  # fmt: skip
def test_bad_input_is_named(args, options, error, words):
    with pytest.raises(error, match=words):
        xf.attention(*args, **options)


def test_meta_tensors_give_meta_tensors():
    query, key, bias = (torch.empty(x, device="meta", requires_grad=True) for x in (Q.shape, K.shape, (4, 1, 9)))
    out, lse = xf.attention(query, key, key, masks.causal(), bias=bias, dropout_p=0.1, return_lse=True)
    assert (out.device.type, out.shape, lse.shape) == ("meta", Q.shape, Q.shape[:3])
    out.sum().backward()
    for x in (query, key, bias):
        assert (x.grad.device.type, x.grad.shape) == ("meta", x.shape)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # which is for tensors on the CPU
        assert xf.attention(query, key, key).dtype == torch.float32


def test_what_the_kernels_do_not_serve_goes_to_the_reference():
    assert torch.equal(xf.attention(*WIDE, K), xf.attention(*WIDE, K, backend="reference"))
    assert xf.attention(Q.double(), K.double(), K.double()).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_autocast_casts_as_torchs_attention_does(dtype):
    query, key, value = tensors(*[(1, 2, 5, 8)] * 3, dtype=dtype, grad=True)
    bias = torch.randn(5, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out, lse = xf.attention(query, key, value, bias=bias, return_lse=True)
        expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert out.dtype == expected.dtype
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    (out.float().sum() + lse.sum()).backward()
    for x in (query, key, value, bias):
        assert x.grad.dtype == x.dtype


@pytest.mark.parametrize("dropout_p", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(dropout_p, capability):
    L, S = 64, 300
    query, key = torch.zeros(1, 2, L, 8), torch.zeros(1, 2, S, 8)
    value = torch.eye(S)[None, None, :, :256].repeat(1, 2, 1, 1)  # the output is the weights, of 256 keys
    torch.manual_seed(5)
    weights = xf.attention(query, key, value, dropout_p=dropout_p) * S
    torch.manual_seed(5)
    seed = torch.randint(-(2**63), 2**63 - 1, (1,))
    kept = keep_mask((1, 2, L, S), dropout_p, seed)[..., :256]
    torch.testing.assert_close(weights, kept / (1 - dropout_p), rtol=1e-4, atol=1e-5)
    count = kept.numel()
    assert abs(kept.float().mean() - (1 - dropout_p)) < 5 * math.sqrt(dropout_p * (1 - dropout_p) / count)


def test_dropout_of_all_is_zero():
    query, key, value = tensors(*[(1, 2, 5, 8)] * 3, grad=True)
    for backend in ("cpu", "reference"):
        out = xf.attention(query, key, value, dropout_p=1.0, backend=backend)
        assert (out == 0).all()
        for grad in torch.autograd.grad(out.sum(), (query, key, value)):
            assert (grad == 0).all()


def test_dropout_follows_torchs_seed():
    torch.manual_seed(1)
    first, second = (xf.attention(Q, K, K, dropout_p=0.5) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(first, xf.attention(Q, K, K, dropout_p=0.5))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_merge_to_the_whole(dtype):
    query, key, value = tensors((2, 4, 5, 8), (2, 2, 30, 8), (2, 2, 30, 6), dtype=dtype, grad=True)
    visible = torch.rand(2, 1, 5, 30) < 0.6
    visible[0, :, :, :17] = False  # nothing in the first part
    visible[1, :, 2] = False  # nothing in any
    ranges = [slice(0, 17), slice(17, 18), slice(18, 30)]
    results = []
    for parts in ([slice(None)], ranges):
        pairs = [xf.attention(query, key[:, :, at], value[:, :, at], visible[..., at], return_lse=True) for at in parts]
        out, lse = xf.merge_attention(*zip(*pairs, strict=True)) if len(pairs) > 1 else pairs[0]
        loss = out.float().square().sum() + lse[lse.isfinite()].sum()
        results.append((out, lse, *torch.autograd.grad(loss, (query, key, value))))
    close = 1e-5 if dtype == torch.float32 else 3e-2
    for got, expected in zip(*results, strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=close, atol=close)


@pytest.mark.parametrize(
    ("outs", "lses", "words"),
    [
        ([], [], "at least one, not 0 for 0"),
        ([Q], [], "lses must be as many as outs, and at least one, not 0 for 1"),
        ([Q, Q[:, :, :3]], [Q[..., 0]] * 2, r"outs\[1\] must be of shape \[2, 4, 5, 8\]"),
        ([Q, Q], [Q[..., 0], Q], r"lses\[1\] must be of shape \[2, 4, 5\]"),
    ],
)
def test_parts_that_do_not_fit_are_named(outs, lses, words):
    with pytest.raises(ValueError, match=words):
        xf.merge_attention(outs, lses)


def test_a_watched_call_goes_through_the_dispatcher(monkeypatch):
    """An unwatched one does not, which is most of what a call costs."""
    from torch._subclasses import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    calls = []
    overload = attention_forward.overload
    monkeypatch.setattr(attention_forward, "overload", lambda *args: calls.append(1) or overload(*args))

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    def watched(call):
        before = len(calls)
        call()
        return len(calls) > before

    def plain():
        return xf.attention(Q, K, K)

    def within(context):
        with context:
            plain()

    assert not watched(plain)
    assert not watched(lambda: within(torch.inference_mode()))
    assert not watched(lambda: xf.attention(torch.nn.Parameter(Q, requires_grad=False), K, K))
    assert watched(lambda: within(Watching()))
    assert watched(lambda: within(FakeTensorMode(allow_non_fake_inputs=True)))
    assert watched(lambda: torch.vmap(lambda q: xf.attention(q, K, K))(torch.stack([Q, Q])))
    assert watched(lambda: within(torch.profiler.profile()))


def test_tensor_subclasses_are_seen():
    class Logged(torch.Tensor):
        seen = 0

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            cls.seen += "xmkern" in str(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    out = xf.attention(Q.as_subclass(Logged), K, K)
    assert Logged.seen == 1
    assert isinstance(out, Logged)
