"""Contrastive losses under torch.compile, torch.export, torch.func, modes, checkpointing, autocast, on meta tensors."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import xmkern.functional as xf


def tensors(*shapes, grad=False):
    torch.manual_seed(0)
    return [torch.randn(shape, requires_grad=grad) for shape in shapes]


def _ids(x):
    return torch.arange(x.shape[0], device=x.device) % 7


CALLS = {
    "info_nce": lambda x, y, scale: xf.info_nce(x, y, scale, normalize=True),
    "labels": lambda x, y, scale: xf.info_nce(x, y, scale, labels=_ids(x), label_smoothing=0.1, symmetric=False),
    "queue": lambda x, y, scale: xf.info_nce(x, y, scale, negatives=(x.detach(), y.detach()), return_lse=True)[0],
    "multi_positive": lambda x, y, scale: xf.multi_positive_info_nce(x, y, scale, x_ids=_ids(x)),
    "mil": lambda x, y, scale: xf.mil_nce(x, y, scale),
    "sigmoid": lambda x, y, scale: xf.sigmoid_contrastive(x, y, scale, -scale),
    "unreduced": lambda x, y, scale: xf.sigmoid_contrastive(x, y, scale, reduction="none").square().sum(),
    "distillation": lambda x, y, scale: xf.distillation(x, y, scale, y, x, 2 * scale),
    "sum": lambda x, y, scale: xf.ranking_loss(x, y, margin=0.2, logit_scale=scale),
    "warp": lambda x, y, scale: xf.ranking_loss(x, y, margin=0.2, mode="warp", logit_scale=scale),
    "hardest": lambda x, y, scale: xf.ranking_loss(x, y, margin=0.2, mode="hardest", logit_scale=scale),
    "likelihood": lambda x, y, scale: scale * xf.hash_likelihood(x, y, f_ids=_ids(x), quantization=0.1, balance=0.1),
    "cosine": lambda x, y, scale: scale * xf.cosine_max_margin(x, y, f_ids=_ids(x)),
    "bitwise": lambda x, y, scale: scale * xf.bitwise_max_margin(x + y),
}
every = pytest.mark.parametrize("name", CALLS)


@pytest.mark.parametrize("dynamic", [True, None])
@every
def test_one_graph_for_all_sizes(name, dynamic):
    """No break; compiled no more than once again, when the second size shows that sizes vary."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(CALLS[name], fullgraph=True, backend=counter, dynamic=dynamic)
    scale = torch.tensor(3.0)
    for size in (11, 23, 40, 41):
        x, y = tensors((size, 8), (size, 8))
        torch.testing.assert_close(compiled(x, y, scale), CALLS[name](x, y, scale))
    graphs = [graph for graph in counter.graphs if any("call" in node.op for node in graph.graph.nodes)]
    assert len(graphs) <= (1 if dynamic else 2)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@every
def test_gradients_of_a_compiled_call(name, backend):
    if backend == "inductor" and name not in ("info_nce", "hardest", "distillation"):
        pytest.skip("compiles for long, and says no more than the others")
    torch._dynamo.reset()
    x, y, scale = tensors((9, 8), (9, 8), (), grad=True)
    results = []
    for call in (CALLS[name], torch.compile(CALLS[name], fullgraph=True, backend=backend)):
        loss = call(x, y, scale)
        results.append((loss, *torch.autograd.grad(loss, (x, y, scale), materialize_grads=True)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


@every
def test_grad_and_vmap(name):
    x, y, scale = tensors((3, 6, 8), (3, 6, 8), ())
    gradients = torch.func.grad(CALLS[name], argnums=(0, 1, 2))
    mapped = torch.vmap(gradients, in_dims=(0, 0, None))(x, y, scale)
    values = torch.vmap(CALLS[name], in_dims=(0, 0, None))(x, y, scale)
    for i in range(3):
        leaves = [each.clone().requires_grad_() for each in (x[i], y[i], scale)]
        loss = CALLS[name](*leaves)
        torch.testing.assert_close(values[i], loss)
        expected = torch.autograd.grad(loss, leaves, materialize_grads=True)
        for got, all_got, want in zip(gradients(*leaves), mapped, expected, strict=True):
            torch.testing.assert_close(got, want)
            torch.testing.assert_close(all_got[i], want)


@every
def test_the_function_of_vjp_outlives_the_transform(name):
    x, y, scale = tensors((6, 8), (6, 8), ())
    _, vjp = torch.func.vjp(CALLS[name], x, y, scale)
    for got, want in zip(
        vjp(torch.tensor(1.0)), torch.func.grad(CALLS[name], argnums=(0, 1, 2))(x, y, scale), strict=True
    ):
        torch.testing.assert_close(got, want)


@every
def test_checkpointing_changes_nothing(name):
    inputs = tensors((9, 8), (9, 8), (), grad=True)
    results = []
    for loss in (CALLS[name](*inputs), checkpoint(CALLS[name], *inputs, use_reentrant=False)):
        results.append((loss, *torch.autograd.grad(loss, inputs, materialize_grads=True)))
    assert all(torch.equal(got, expected) for got, expected in zip(*results, strict=True))


@every
def test_fake_tensors(name):
    with FakeTensorMode():
        inputs = tensors((9, 8), (9, 8), (), grad=True)
        loss = CALLS[name](*inputs)
        grads = torch.autograd.grad(loss, inputs, materialize_grads=True)
    assert loss.shape == ()
    assert [grad.shape for grad in grads] == [each.shape for each in inputs]


@every
def test_a_traced_step(name):
    def step(*inputs):
        leaves = [each.detach().requires_grad_() for each in inputs]
        loss = CALLS[name](*leaves)
        return loss, *torch.autograd.grad(loss, leaves, materialize_grads=True)

    x, y, scale = tensors((9, 8), (9, 8), ())
    traced = make_fx(step)(x, y, scale)
    for got, expected in zip(traced(y, x, scale), step(y, x, scale), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", ["info_nce", "sum", "distillation"])
def test_a_second_derivative_is_refused(name):
    x, y, scale = tensors((6, 8), (6, 8), (), grad=True)
    (grad,) = torch.autograd.grad(CALLS[name](x, y, scale) + x.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivative only"):
        torch.autograd.grad(grad.square().sum(), x)
    with pytest.raises(NotImplementedError, match="first derivative only"):
        torch.func.grad(lambda x: torch.func.grad(CALLS[name])(x, y, scale).square().sum())(x)


@every
def test_autocast(name):
    """The operands are cast, and nothing else changes: not in the backward, and not under a compiler."""
    x, y, scale = tensors((9, 8), (9, 8), (), grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = CALLS[name](x, y, scale)
        compiled = torch.compile(CALLS[name], fullgraph=True, backend="aot_eager")(x, y, scale)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, compiled)
    got = torch.autograd.grad(loss, (x, y, scale), materialize_grads=True)
    if name == "bitwise":  # there is no product in it
        return
    expected = torch.autograd.grad(
        CALLS[name](x.bfloat16(), y.bfloat16(), scale), (x, y, scale), materialize_grads=True
    )
    assert torch.equal(loss, CALLS[name](x.bfloat16(), y.bfloat16(), scale))
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)  # several casts of one tensor have a gradient each


@every
def test_meta_tensors_give_meta_tensors(name):
    x, y, scale = (torch.empty(shape, device="meta", requires_grad=True) for shape in ((9, 8), (9, 8), ()))
    loss = CALLS[name](x, y, scale)
    assert (loss.device.type, loss.shape) == ("meta", ())
    loss.backward()
    assert (x.grad.device.type, x.grad.shape) == ("meta", x.shape)


@every
def test_float64(name):
    x, y, scale = (each.double().requires_grad_() for each in tensors((9, 8), (9, 8), ()))
    loss = CALLS[name](x, y, scale)
    assert loss.dtype == torch.float64
    loss.backward()
    single = [each.detach().float().requires_grad_() for each in (x, y, scale)]
    CALLS[name](*single).backward()
    torch.testing.assert_close(x.grad.float(), single[0].grad, rtol=1e-4, atol=1e-5)


def test_export():
    class Loss(torch.nn.Module):
        def forward(self, x, y, ids):
            return xf.multi_positive_info_nce(x, y, 14.3, x_ids=ids, normalize=True)

    inputs = (*tensors((9, 8), (9, 8)), torch.arange(9) % 4)
    B = torch.export.Dim("B", min=2, max=1000)
    exported = torch.export.export(Loss(), inputs, dynamic_shapes={"x": {0: B}, "y": {0: B}, "ids": {0: B}})
    longer = (*tensors((30, 8), (30, 8)), torch.arange(30) % 4)
    for given in (inputs, longer):
        torch.testing.assert_close(exported.module()(*given), Loss()(*given))
