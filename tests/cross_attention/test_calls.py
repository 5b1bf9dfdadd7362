"""co_attention and cross_attention: their arguments, torch.compile, torch.func, autocast, the dispatcher."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import xmkern.functional as xf
from xmkern import masks
from xmkern.biases import RelativeBias
from xmkern.ops.cross_attention.op import cross_attention_forward


def tensors(*shapes, dtype=torch.float32, grad=False):
    torch.manual_seed(0)
    return [torch.randn(shape).to(dtype).requires_grad_(grad) for shape in shapes]


A, B = (2, 4, 9, 8), (2, 2, 5, 8)
Q, K, SHORT = tensors(A, (2, 2, 9, 8), B)
STREAMS = tensors(*[A] * 3, *[(2, 4, 5, 8)] * 3)


@pytest.mark.parametrize(
    ("change", "options", "error", "words"),
    [
        ({0: [1.0]}, {}, TypeError, r"query must be a tensor, not list \(query is q_a, key k_b"),
        ({4: K}, {}, ValueError, "value must have the axes .*q_a, key k_b, value v_b"),
        ({1: SHORT, 2: SHORT}, {}, ValueError, "k_a must be of the batch and the length of q_a, 2 and 9, not 2 and 5"),
        ({3: SHORT[..., :3]}, {}, ValueError, r"key must have the axes .* D = 3, .*query is q_b, key k_a"),
        ({0: STREAMS[0].double(), 4: STREAMS[4].double(), 5: STREAMS[5].double()}, {}, ValueError, "q_b must be"),
        ({}, {"mask_b": torch.ones(9, 5).bool()}, ValueError, r"\[2, 4, 5, 9\].*mask mask_b"),
        ({}, {"bias_a": 1.0}, TypeError, "bias must be a tensor or a RelativeBias, not float .*bias bias_a"),
        ({}, {"scale": torch.ones(1)}, TypeError, "scale must be a number"),
        ({}, {"dropout_p": 2}, ValueError, "dropout_p must be 0 to 1, not 2"),
        ({}, {"backend": "warp"}, ValueError, "backend must be 'auto' or one of 'cpu', 'triton', 'reference'"),
        (dict(enumerate(x.double() for x in STREAMS)), {"backend": "cpu"}, ValueError, "cannot serve .*float64"),
    ],
)
def test_bad_streams_are_named(change, options, error, words):
    given = [change.get(i, x) for i, x in enumerate(STREAMS)]
    with pytest.raises(error, match=words):
        xf.co_attention(*given, **options)


@pytest.mark.parametrize(
    ("sources", "options", "error", "words"),
    [
        ([], {}, TypeError, "sources must be a sequence of one or more KeyValue or tuples, not none"),
        (xf.KeyValue(K, K), {}, TypeError, "sources must be a sequence of .*, not KeyValue"),
        (K, {}, TypeError, "sources must be a sequence of .*, not Tensor"),
        ([K], {}, TypeError, r"sources\[0\] must be a KeyValue or a tuple \(key, value"),
        ([(K,)], {}, TypeError, r"sources\[0\] must be a KeyValue or a tuple"),
        ([(K, K), (K, K[:, :, :4])], {}, ValueError, r"sources\[1\]: value must have the axes"),
        ([(K, K), (SHORT, SHORT[..., :4])], {}, ValueError, r"sources\[1\]: .* Dv = 8, not 2 and 4"),
        ([(K, K), (K[:, :1], K[:, :1])], {}, ValueError, r"sources\[1\]: .* heads Hk .* 2 and Dv = 8, not 1 and 8"),
        ([(K, K), (K.double(), K.double())], {}, TypeError, r"sources\[1\]: query, key and value must be of one dtype"),
        ([(K, K, torch.ones(9, 8).bool())], {}, ValueError, r"sources\[0\]: mask: dense must fit"),
        ([(K, K), (K, K, None, torch.ones(3, 9, 9))], {}, ValueError, r"sources\[1\]: bias must broadcast to"),
        ([(K, K)], {"dropout_p": "a"}, TypeError, "dropout_p must be a number, not str"),
        ([(K, K)], {"scale": torch.ones(1)}, TypeError, r"sources\[0\]: scale must be a number"),
    ],
)  # fmt: skip
def test_bad_sources_are_named(sources, options, error, words):
    with pytest.raises(error, match=words):
        xf.cross_attention(Q, sources, **options)


def test_meta_tensors_give_meta_tensors():
    given = [torch.empty(x.shape, device="meta", requires_grad=True) for x in STREAMS]
    outs = xf.co_attention(*given, masks.causal(), dropout_p=0.1)
    assert [(x.device.type, x.shape) for x in outs] == [("meta", STREAMS[0].shape), ("meta", STREAMS[3].shape)]
    sum(x.sum() for x in outs).backward()
    assert all(x.grad.device.type == "meta" and x.grad.shape == x.shape for x in given)


def test_autocast_casts_as_attention_does():
    given = [x.clone().requires_grad_() for x in STREAMS]
    with torch.autocast("cpu", torch.bfloat16):
        outs = xf.co_attention(*given)
        outs += xf.cross_attention(given[0], [(given[1], given[2]), (given[4], given[5])], return_lse=True)
    assert [x.dtype for x in outs] == [torch.bfloat16] * 3 + [torch.float32]
    sum(x.float().sum() for x in outs).backward()
    assert all(x.grad.dtype == torch.float32 for x in given)


def test_what_the_kernels_do_not_serve_goes_to_the_reference():
    wide = [x.repeat(1, 1, 1, 40) for x in (Q, K, SHORT)]
    sources = [(wide[1], K), (wide[2], SHORT)]
    assert torch.equal(xf.cross_attention(wide[0], sources), xf.cross_attention(wide[0], sources, backend="reference"))
    assert xf.co_attention(*(x.double() for x in STREAMS))[0].dtype == torch.float64


def test_key_values_are_held_over_a_loop():
    """Made once, alone or beside what changes; gradients of all turns meet in them."""
    query, key, value, *own = tensors(A, B, B, *[(2, 2, 9, 8)] * 3, grad=True)
    text = xf.KeyValue(key, value, masks.key_lengths(torch.tensor([5, 2])))
    out = xf.cross_attention(query, [text])
    assert torch.equal(out, xf.attention(query, key, value, text.mask))
    grads = [torch.autograd.grad(xf.cross_attention(query, [text, (x, x)]).square().sum(), (key, value)) for x in own]
    total = sum(xf.cross_attention(query, [text, (x, x)]).square().sum() for x in own)
    for got, parts in zip(torch.autograd.grad(total, (key, value)), zip(*grads, strict=True), strict=True):
        torch.testing.assert_close(got, sum(parts))


def co(lengths, table, *given):
    mask, bias = masks.key_lengths(lengths), RelativeBias(table)
    return torch.cat([x.flatten() for x in xf.co_attention(*given, mask, bias_b=bias)])


def cross(lengths, table, *given):
    q, k, v, _, k_b, v_b = given
    out, lse = xf.cross_attention(q, [(k, v), xf.KeyValue(k_b, v_b, masks.key_lengths(lengths))], return_lse=True)
    return torch.cat([out.flatten(), lse.flatten()]) + 0 * table.sum()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("call", [co, cross])
def test_compiled_values_and_gradients(call, backend):
    torch._dynamo.reset()
    lengths, given = (
        torch.tensor([5, 3]),
        [*tensors((13, 4), grad=True), *(x.clone().requires_grad_() for x in STREAMS)],
    )
    results = []
    for each in (call, torch.compile(call, fullgraph=True, backend=backend)):
        out = each(lengths, *given)
        results.append((out, *torch.autograd.grad(out.square().sum(), given, allow_unused=True)))
    for got, expected in zip(*results, strict=True):
        if expected is not None:
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("call", [co, cross])
def test_one_graph_for_all_lengths(call):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call, fullgraph=True, backend=counter, dynamic=True)
    counts = []
    for L, S in ((9, 5), (11, 7), (40, 23)):
        given = tensors((L + S - 1, 4), *[(2, 4, L, 8)] * 3, *[(2, 4, S, 8)] * 3)
        lengths = torch.tensor([S, 3])
        assert torch.equal(compiled(lengths, *given), call(lengths, *given))
        counts.append(counter.frame_count)
    assert counts[-1] == counts[0] <= 2


@pytest.mark.parametrize("call", [co, cross])
def test_grad_and_vmap_of_torch_func(call):
    lengths, table = torch.tensor([5, 3]), torch.randn(13, 4)
    given = [torch.stack([x, 2 * x, -x]) for x in STREAMS]

    def loss(table, *each):
        return call(lengths, table, *each).square().sum()

    every = tuple(range(7))
    got = torch.vmap(torch.func.grad(loss, argnums=every), in_dims=(None, *(0,) * 6))(table, *given)
    for i in range(3):
        leaves = [x.clone().requires_grad_() for x in (table, *(x[i] for x in given))]
        expected = torch.autograd.grad(loss(*leaves), leaves, allow_unused=True)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a[i], torch.zeros_like(a[i]) if b is None else b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "call", [lambda x, y: xf.co_attention(x, x, x, y, y, y)[0], lambda x, y: xf.cross_attention(x, [(x, x), (y, y)])]
)
def test_a_second_derivative_is_refused(call):
    x, y = tensors(A, A, grad=True)
    grad = torch.autograd.grad(x.square().sum() + call(x, y).sum(), x, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="first derivative only"):
        torch.autograd.grad(grad.square().sum(), x)


def test_checkpointing_replays_dropout():
    x, y = tensors(A, A, grad=True)
    grads = []
    for again in (True, False):
        torch.manual_seed(0)
        call = lambda x, y: sum(out.square().sum() for out in xf.co_attention(x, x, x, y, y, y, dropout_p=0.4))  # noqa: E731
        loss = checkpoint(call, x, y, use_reentrant=False) if again else call(x, y)
        grads.append(torch.autograd.grad(loss, (x, y)))
    assert all(map(torch.equal, *grads))


def test_dropout_of_the_two_directions_differs():
    x = torch.ones(1, 1, 64, 64)
    torch.manual_seed(0)
    outs = xf.co_attention(x, x, torch.eye(64)[None, None], x, x, torch.eye(64)[None, None], dropout_p=0.5)
    assert not torch.equal(outs[0] == 0, outs[1] == 0)


def test_a_watched_call_goes_through_the_dispatcher(monkeypatch):
    """Also where only a tensor within the lists is of a subclass."""

    class Logged(torch.Tensor):
        pass

    calls = []
    overload = cross_attention_forward.overload
    monkeypatch.setattr(cross_attention_forward, "overload", lambda *args: calls.append(1) or overload(*args))
    xf.co_attention(*STREAMS)
    assert not calls
    xf.co_attention(*STREAMS[:5], STREAMS[5].as_subclass(Logged))
    assert len(calls) == 1
    with torch.profiler.profile():
        xf.cross_attention(Q, [(K, K)])
    assert len(calls) == 2
