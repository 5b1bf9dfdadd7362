"""What PyTorch does to modules: compiling, exporting, copying, functional transforms, autocast."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, stack_module_state, vmap

from tests.nn.twins import twins
from xmkern.nn import MultiheadAttention, TransformerDecoderLayer, TransformerEncoderLayer

SIZE, HEADS, LENGTH = 8, 2, 5
OPTIONS = {"dropout": 0.2, "batch_first": True}


class SelfAttention(MultiheadAttention):
    """One tensor in, one out, as the layers have it."""

    def forward(self, x, padding=None):
        out, weights = super().forward(x, x, x, padding, is_causal=True)
        return torch.cat([out, weights], -1)


class Decoder(TransformerDecoderLayer):
    def forward(self, x, padding=None):
        return super().forward(x, x.roll(1, -1), None, None, padding, padding, tgt_is_causal=True)


class Encoder(TransformerEncoderLayer):
    def forward(self, x, padding=None):
        return super().forward(x, None, padding, is_causal=True)


MODULES = {
    "attention": lambda: SelfAttention(SIZE, HEADS, **OPTIONS),
    "attention, keys appended": lambda: SelfAttention(SIZE, HEADS, add_bias_kv=True, add_zero_attn=True, **OPTIONS),
    "encoder": lambda: Encoder(SIZE, HEADS, 16, **OPTIONS),
    "decoder": lambda: Decoder(SIZE, HEADS, 16, norm_first=True, **OPTIONS),
}


@pytest.fixture(params=MODULES)
def module(request):
    torch.manual_seed(0)
    return MODULES[request.param]()


def padding(*lengths, size=LENGTH):
    return torch.arange(size) >= torch.tensor(lengths)[:, None]


def test_compiles_without_a_break_and_once_for_all_lengths(module):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
    frames = set()
    for length in (5, 9, 12):
        x, hidden = torch.randn(3, length, SIZE, requires_grad=True), padding(4, 5, 3, size=length)
        results = []
        for called in (module, compiled):
            torch.manual_seed(2)
            out = called(x, hidden)
            results.append([out, *torch.autograd.grad(out.square().sum(), [x, *module.parameters()])])
        torch.testing.assert_close(*results)
        frames.add(counter.frame_count)
    assert len(frames) == 1


def test_exports(module):
    module.eval()
    axes = {0: torch.export.Dim("batch", min=2, max=64), 1: torch.export.Dim("length", min=3, max=64)}
    inputs = torch.randn(2, LENGTH, SIZE), padding(5, 2)
    exported = torch.export.export(module, inputs, dynamic_shapes=(axes, axes))
    stream = io.BytesIO()
    torch.export.save(exported, stream)
    stream.seek(0)
    inputs = torch.randn(3, 7, SIZE), padding(7, 3, 1, size=7)
    torch.testing.assert_close(torch.export.load(stream).module()(*inputs), module(*inputs))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies(module, copied):
    module.eval()
    twin, x = copied(module), torch.randn(2, LENGTH, SIZE)
    assert [type(part) for part in twin.modules()] == [type(part) for part in module.modules()]
    assert torch.equal(twin(x), module(x))


def test_gradients_per_sample(module):
    module.eval()
    parameters = dict(module.named_parameters())
    x, hidden = torch.randn(3, LENGTH, SIZE), padding(5, 2, 3)

    def loss(parameters, x, hidden):
        return functional_call(module, parameters, (x[None], hidden[None])).square().sum()

    got = vmap(grad(loss), (None, 0, 0))(parameters, x, hidden)
    each = [torch.autograd.grad(loss(parameters, *one), parameters.values()) for one in zip(x, hidden, strict=True)]
    for name, expected in zip(parameters, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(got[name], torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_an_ensemble(module):
    modules, x = [copy.deepcopy(module).eval() for _ in range(3)], torch.randn(2, LENGTH, SIZE)
    for other in modules:
        for parameter in other.parameters():
            nn.init.normal_(parameter)
    out = vmap(lambda *state: functional_call(modules[0], state, (x,)))(*stack_module_state(modules))
    torch.testing.assert_close(out, torch.stack([other(x) for other in modules]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"add_bias_kv": True}])
def test_autocast(options):
    ours, theirs = twins(MultiheadAttention, nn.MultiheadAttention, 16, 2, **options)
    x = torch.randn(6, 2, 16)
    exact = theirs(x, x, x)
    with torch.autocast("cpu", torch.bfloat16):
        got, eager = ours(x, x, x), theirs(x, x, x)
    for a, b, c in zip(got, eager, exact, strict=True):
        assert a.dtype == b.dtype
        assert (a - c).abs().max() <= 2 * (b - c).abs().max() + 4 * torch.finfo(torch.bfloat16).eps * c.abs().max()
