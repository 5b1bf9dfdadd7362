"""Attention under torch.compile, torch.export, torch.func, make_fx and checkpointing."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import xmkern.functional as xf
from xmkern import masks
from xmkern.biases import RelativeBias, t5_buckets


def tensors(*shapes, grad=False):
    torch.manual_seed(0)
    return [torch.randn(shape, requires_grad=grad) for shape in shapes]


def masked(mask):
    return lambda query, key, value, lengths, ids: xf.attention(query, key, value, mask(key, lengths, ids))


def relative(query, key, value, lengths, ids, table):
    bias = RelativeBias(table, t5_buckets(query.shape[2], key.shape[2]))
    return xf.attention(query, key, value, masks.causal(), bias=bias)


CALLS = {
    "plain": masked(lambda key, lengths, ids: None),
    "causal": masked(lambda key, lengths, ids: masks.causal()),
    "prefix": masked(lambda key, lengths, ids: masks.prefix(lengths) & masks.band(30, None)),
    "segments": masked(lambda key, lengths, ids: masks.segments(ids) | masks.key_lengths(lengths)),
    "axial": masked(lambda key, lengths, ids: masks.axial(3, 2, 4, "conv", kernel=3)),
    "bool": masked(lambda key, lengths, ids: ids[:, None, :, None] == ids[:, None, None, :]),
    "float": masked(lambda key, lengths, ids: ids[:, None, None, :].float()),
}


@pytest.mark.parametrize("dynamic", [True, None])
@pytest.mark.parametrize("name", CALLS)
def test_one_graph_for_all_lengths(name, dynamic):
    """No break; compiled no more than once again, when the second length shows that lengths vary."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(CALLS[name], fullgraph=True, backend=counter, dynamic=dynamic)
    counts = []
    for length in (11, 23, 40, 41):
        inputs = tensors(*[(2, 4, length, 8)] * 3)
        lengths, ids = torch.tensor([3, length]), torch.arange(2 * length).view(2, length) // 7
        assert torch.equal(compiled(*inputs, lengths, ids), CALLS[name](*inputs, lengths, ids))
        counts.append(counter.frame_count)
    assert counts[-1] - counts[0 if dynamic else 1] == 0
    assert counts[-1] <= 2


def test_decoding_compiles_no_more_than_the_first_step():
    """The cache grows, and with it the mask's offset."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def step(query, key, value, offset):
        return xf.attention(query, key, value, masks.causal(offset) & masks.causal(key.shape[2] - query.shape[2]))

    compiled = torch.compile(step, fullgraph=True, backend=counter, dynamic=True)
    counts = []
    for length in (9, 10, 20):
        query, key, value = tensors((1, 4, 2, 8), (1, 2, length, 8), (1, 2, length, 8))
        assert torch.equal(compiled(query, key, value, length - 2), step(query, key, value, length - 2))
        counts.append(counter.frame_count)
    assert counts[0] == counts[-1]


def test_masks_and_biases_as_arguments_of_a_compiled_function():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda q, k, v, mask, bias: xf.attention(q, k, v, mask & masks.causal(), bias=bias),
        fullgraph=True, backend=counter,
    )  # fmt: skip
    query, key, value, table = tensors((2, 4, 9, 8), (2, 2, 9, 8), (2, 2, 9, 8), (32, 4))
    bias = RelativeBias(table, t5_buckets(9, 9))
    for lengths in ([3, 9], [1, 4]):
        mask = masks.key_lengths(torch.tensor(lengths))
        expected = xf.attention(query, key, value, mask & masks.causal(), bias=bias)
        assert torch.equal(compiled(query, key, value, mask, bias), expected)
    assert counter.frame_count == 1


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_gradients_of_a_compiled_call(backend):
    torch._dynamo.reset()
    query, key, value, table = tensors((2, 4, 9, 8), (2, 2, 9, 8), (2, 2, 9, 8), (32, 4), grad=True)
    arguments = (query, key, value, None, None, table)
    results = []
    for call in (relative, torch.compile(relative, fullgraph=True, backend=backend)):
        out = call(*arguments)
        results.append((out, *torch.autograd.grad(out.square().sum(), (query, key, value, table))))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_compiled_dropout_follows_torchs_seed():
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: xf.attention(x, x, x, dropout_p=0.5), fullgraph=True, backend="aot_eager")
    (x,) = tensors((1, 1, 30, 8))
    torch.manual_seed(1)
    first, second = compiled(x), compiled(x)
    torch.manual_seed(1)
    assert torch.equal(first, xf.attention(x, x, x, dropout_p=0.5))
    assert not torch.equal(first, second)


def test_compiled_under_autocast():
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: xf.attention(x, x, x), fullgraph=True, backend="aot_eager")
    (x,) = tensors((1, 1, 30, 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(x), xf.attention(x, x, x))
        assert compiled(x).dtype == torch.bfloat16


def test_export():
    class Model(torch.nn.Module):
        def forward(self, query, key, value, lengths):
            return xf.attention(query, key, value, masks.prefix(lengths), return_lse=True)

    inputs = (*tensors((2, 4, 9, 8), (2, 2, 12, 8), (2, 2, 12, 8)), torch.tensor([3, 9]))
    L, S = torch.export.Dim("L", min=2, max=100), torch.export.Dim("S", min=2, max=100)
    exported = torch.export.export(
        Model(), inputs, dynamic_shapes={"query": {2: L}, "key": {2: S}, "value": {2: S}, "lengths": {}}
    )
    longer = (*tensors((2, 4, 30, 8), (2, 2, 40, 8), (2, 2, 40, 8)), torch.tensor([3, 40]))
    for given in (inputs, longer):
        for got, expected in zip(exported.module()(*given), Model()(*given), strict=True):
            assert torch.equal(got, expected)


def test_export_takes_masks_and_biases_as_inputs():
    class Model(torch.nn.Module):
        def forward(self, x, mask, bias):
            return xf.attention(x, x, x, mask, bias=bias)

    x, table = tensors((2, 4, 9, 8), (17, 1))
    given = (x, masks.key_lengths(torch.tensor([3, 9])), RelativeBias(table))
    assert torch.equal(torch.export.export(Model(), given).module()(*given), Model()(*given))


def test_grad_of_torch_func():
    query, key, value, bias = tensors((2, 4, 5, 8), (2, 2, 9, 8), (2, 2, 9, 8), (4, 5, 1))

    def loss(query, key, value, bias):
        out, lse = xf.attention(query, key, value, masks.causal(4), bias=bias, return_lse=True)
        return out.square().sum() + lse.sum()

    got = torch.func.grad(loss, argnums=(0, 1, 2, 3))(query, key, value, bias)
    leaves = [x.clone().requires_grad_() for x in (query, key, value, bias)]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
    table = RelativeBias(torch.randn(13, 1))
    grad = torch.func.grad(lambda bias: xf.attention(query, key, value, bias=bias).square().sum())(table)
    assert grad.table.shape == (13, 1)


@pytest.mark.parametrize("kind", ["plain", "mask", "bias", "shared bias", "table", "dropout"])
def test_vmap(kind):
    query, key, value = tensors((3, 2, 4, 5, 8), (2, 2, 9, 8), (3, 2, 2, 9, 8))
    lengths, bias, table = torch.tensor([[2, 9], [0, 4], [5, 5]]), torch.randn(3, 4, 1, 9), torch.randn(13, 4)

    def call(query, value, lengths, bias):
        options = {
            "mask": {"mask": masks.key_lengths(lengths) & masks.causal(4)},
            "bias": {"bias": bias},
            "shared bias": {"bias": table.t()[:, None, :9]},
            "table": {"bias": RelativeBias(table, torch.arange(45).view(5, 9) % 13)},
            "dropout": {"dropout_p": 0.5},
        }.get(kind, {})
        return xf.attention(query, key, value, **options)

    def grad(*inputs):
        return torch.func.grad(lambda *each: call(*each).square().sum(), argnums=(0, 1, 3))(*inputs)

    for mapped in (call, grad):
        torch.manual_seed(0)
        got = torch.vmap(mapped, randomness="different")(query, value, lengths, bias)
        if kind == "dropout":
            assert all(x.isfinite().all() for x in (got if isinstance(got, tuple) else (got,)))
            continue
        parts = [mapped(query[i], value[i], lengths[i], bias[i]) for i in range(3)]
        expected = torch.stack(parts) if mapped is call else tuple(map(torch.stack, zip(*parts, strict=True)))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_per_sample_gradients_of_a_shared_bias():
    query, bias = tensors((3, 4, 5, 8), (4, 1, 5))

    def loss(bias, query):
        return xf.attention(query[None], query[None], query[None], bias=bias).square().sum()

    got = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(bias, query)
    expected = torch.stack([torch.func.grad(loss)(bias, each) for each in query])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def penalty_of_autograd(loss, x):
    return torch.autograd.grad(torch.autograd.grad(loss(x), x, create_graph=True)[0].square().sum(), x)


def penalty_of_torch_func(loss, x):
    return torch.func.grad(lambda x: torch.func.grad(loss)(x).square().sum())(x)


@pytest.mark.parametrize("penalty", [penalty_of_autograd, penalty_of_torch_func])
def test_a_second_derivative_is_refused(penalty):
    """Even where the gradient of the output is a constant: it would be zero, in silence."""
    (x,) = tensors((1, 2, 5, 8), grad=True)
    with pytest.raises(NotImplementedError, match="first derivative only"):
        penalty(lambda x: x.square().sum() + xf.attention(x, x, x).sum(), x)


def test_the_function_of_vjp_outlives_the_transform():
    x, cotangent = tensors((1, 2, 5, 8), (1, 2, 5, 8))
    _, vjp = torch.func.vjp(lambda x: xf.attention(x, x, x, masks.key_lengths(torch.tensor([3]))), x)
    expected = torch.func.grad(
        lambda x: (xf.attention(x, x, x, masks.key_lengths(torch.tensor([3]))) * cotangent).sum()
    )
    torch.testing.assert_close(vjp(cotangent)[0], expected(x))


def test_a_traced_graph_holds_one_operator():
    (x,) = tensors((1, 2, 5, 8))
    graph = make_fx(lambda x: xf.attention(x, x, x, masks.causal()))(x)
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert calls.count("xmkern.attention.default") == 1
    assert torch.equal(graph(2 * x), xf.attention(2 * x, 2 * x, 2 * x, masks.causal()))


def test_checkpointing_replays_dropout():
    (x,) = tensors((1, 2, 5, 8), grad=True)
    grads = []
    for again in (True, False):
        torch.manual_seed(0)
        call = lambda x: xf.attention(x, x, x, dropout_p=0.4)  # noqa: E731
        out = checkpoint(call, x, use_reentrant=False) if again else call(x)
        grads.append(torch.autograd.grad(out.square().sum(), x)[0])
    assert torch.equal(*grads)
