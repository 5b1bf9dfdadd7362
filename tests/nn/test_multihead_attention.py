"""xmkern.nn.MultiheadAttention against torch.nn's with the same weights."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.nn.twins import assert_twins_agree, twins
from xmkern.nn import MultiheadAttention


def pair(*args, **kwargs):
    return twins(MultiheadAttention, nn.MultiheadAttention, *args, **kwargs)


@st.composite
def calls(draw):
    """A pair of modules, the inputs of a call, and which arguments are the same tensor."""
    flag = st.booleans()
    torch.manual_seed(draw(st.integers(0, 2**31)))
    heads = draw(st.sampled_from([1, 2, 4]))
    size = heads * draw(st.integers(1, 5))
    kind = draw(st.sampled_from(["self", "cross", "distinct", "sizes"]))
    options = {name: draw(flag) for name in ("bias", "add_bias_kv", "add_zero_attn", "batch_first")}
    key_size, value_size = (draw(st.integers(1, 9)), draw(st.integers(1, 9))) if kind == "sizes" else (size, size)
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    modules = pair(size, heads, kdim=key_size, vdim=value_size, dtype=dtype, **options)

    single, batch = draw(flag), draw(st.integers(1, 3))
    batch = 1 if single else batch
    queries, keys = draw(st.integers(1, 9)), draw(st.integers(2, 9))
    queries = keys if kind == "self" else queries

    def sequence(length, columns):
        x = torch.randn(length, columns) if single else torch.randn(batch, length, columns)
        x = x if single or options["batch_first"] else x.transpose(0, 1)
        return x.to(dtype).requires_grad_()

    inputs = {"query": sequence(queries, size)}
    if kind != "self":
        inputs["key"] = sequence(keys, key_size)
    if kind in ("distinct", "sizes"):
        inputs["value"] = sequence(keys, value_size)
    same = {"self": {"key": "query", "value": "query"}, "cross": {"value": "key"}}.get(kind, {})

    def mask(shape, kind):
        hidden = torch.rand(shape) < 0.4
        hidden[..., 0] = False  # torch gives NaN where all is hidden
        if kind == "bool":
            return hidden
        added = torch.randn(shape).masked_fill(hidden, -math.inf if kind == "hiding" else 0.5)
        return added.to(dtype).requires_grad_(kind == "learned")

    kinds = st.sampled_from([None, "bool", "hiding", "learned"])
    if padding := draw(kinds):
        inputs["key_padding_mask"] = mask((keys,) if single else (batch, keys), padding)
    attn = draw(st.one_of(kinds, st.just("causal")))
    if attn == "causal":
        inputs["attn_mask"] = torch.ones(queries, keys, dtype=torch.bool).triu(1)
        # torch forgets that the appended keys are visible where it follows the hint.
        inputs["is_causal"] = not (options["add_bias_kv"] or options["add_zero_attn"])
    elif attn:
        inputs["attn_mask"] = mask((*([batch * heads] if draw(flag) else []), queries, keys), attn)
    inputs |= {"need_weights": draw(flag), "average_attn_weights": draw(flag)}
    return *modules, inputs, same


@given(calls())
def test_matches_torch(call):
    ours, theirs, inputs, same = call
    assert_twins_agree(ours, theirs, inputs, same)


@pytest.mark.parametrize("options", [{}, {"kdim": 3, "vdim": 5}, {"bias": False}, {"add_bias_kv": True}])
def test_state_dict_and_initial_values_are_those_of_torch(options):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(8, 2, **options)
    torch.manual_seed(0)
    ours = MultiheadAttention(8, 2, **options)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
    fresh = MultiheadAttention(8, 2, **options)
    fresh.load_state_dict(theirs.state_dict())
    nn.MultiheadAttention(8, 2, **options).load_state_dict(fresh.state_dict())
    assert repr(ours) == repr(theirs)


def test_a_module_of_torch_is_taken_over_with_its_parameters():
    theirs = nn.MultiheadAttention(8, 2, dropout=0.25).eval()
    ours = MultiheadAttention.from_torch(theirs)
    assert type(ours) is MultiheadAttention
    assert type(theirs) is nn.MultiheadAttention
    assert (ours.dropout, ours.training) == (0.25, False)
    assert all(a is b for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_a_query_that_sees_nothing_gives_zeros_and_harms_nobody(dtype):
    ours, theirs = pair(8, 2, batch_first=True)
    x = torch.randn(2, 5, 8, requires_grad=True)
    hidden = torch.zeros(2, 5, dtype=torch.bool)
    hidden[1] = True
    mask = hidden if dtype == torch.bool else torch.zeros(2, 5).masked_fill(hidden, -math.inf)
    out, weights = ours(x, x, x, key_padding_mask=mask)
    assert torch.equal(out[1], ours.out_proj.bias.expand(5, 8))
    assert not weights[1].any()
    torch.testing.assert_close(out[0], theirs(x[:1], x[:1], x[:1])[0][0])
    (out.sum() + weights.square().sum()).backward()
    assert x.grad.isfinite().all()
    assert not x.grad[1].any()
    assert all(parameter.grad.isfinite().all() for parameter in ours.parameters())


@pytest.mark.parametrize("appended", [{}, {"add_zero_attn": True}, {"add_zero_attn": True, "add_bias_kv": True}])
@pytest.mark.parametrize("padded", [False, True])
def test_causal_needs_no_mask(appended, padded):
    ours, theirs = pair(8, 2, **appended)
    x = torch.randn(6, 2, 8)
    padding = torch.arange(6) >= torch.tensor([[6], [4]]) if padded else None
    expected = theirs(x, x, x, padding, attn_mask=torch.ones(6, 6, dtype=torch.bool).triu(1))
    torch.testing.assert_close(ours(x, x, x, padding, is_causal=True), expected)


def test_asking_for_weights_changes_neither_output_nor_gradients():
    module, x = MultiheadAttention(8, 2, dropout=0.3), torch.randn(6, 2, 8)
    results = []
    for need_weights in (False, True):
        torch.manual_seed(1)
        out = module(x, x, x, need_weights=need_weights)[0]
        results.append([out, *torch.autograd.grad(out.square().sum(), module.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("length", [0, 1])
def test_empty_and_single(length):
    module = MultiheadAttention(8, 2, batch_first=True)
    for batch, queries, keys in ((length, 3, 3), (2, length, 3), (2, 3, length)):
        query, key = torch.randn(batch, queries, 8), torch.randn(batch, keys, 8)
        out, weights = module(query, key, key)
        assert out.shape == query.shape
        assert weights.shape == (batch, queries, keys)
        assert out.isfinite().all()
        out.sum().backward()


def test_nothing_of_the_size_of_the_scores_is_kept():
    length, kept = 200, []
    module = MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
    x = torch.randn(1, length, 8)
    padding = torch.arange(length)[None] >= length - 3
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.untyped_storage().nbytes()) or t, lambda t: t
    ):
        module(x, x, x, padding, need_weights=False, is_causal=True)
    assert kept
    assert max(kept) < length * length


class TestDropout:
    def test_is_reproducible_and_off_in_evaluation(self):
        module, x = MultiheadAttention(8, 2, dropout=0.4, batch_first=True), torch.randn(2, 9, 8)
        torch.manual_seed(3)
        first, second = module(x, x, x)[0], module(x, x, x)[0]
        torch.manual_seed(3)
        assert torch.equal(module(x, x, x)[0], first)
        assert not torch.equal(first, second)
        module.eval()
        assert torch.equal(module(x, x, x)[0], module(x, x, x)[0])

    @pytest.mark.parametrize("p", [0.1, 0.5])
    def test_statistics(self, p):
        """All weights are 1 / S and all values 1, so each output is the share of kept elements over 1 - p."""
        keys, count = 50, 20_000
        module = MultiheadAttention(2, 2, dropout=p, batch_first=True)
        with torch.no_grad():
            module.in_proj_weight.zero_()
            module.in_proj_bias.copy_(torch.tensor([0.0, 0, 0, 0, 1, 1]))
            module.out_proj.weight.copy_(torch.eye(2))
            torch.manual_seed(0)
            out = module(torch.zeros(1, count, 2), torch.zeros(1, keys, 2), torch.zeros(1, keys, 2))[0].double()
        deviation = math.sqrt(p / (1 - p) / keys)
        assert abs(out.mean() - 1) < 5 * deviation / math.sqrt(out.numel())
        assert out.std().item() == pytest.approx(deviation, rel=0.03)
        correlation = torch.corrcoef(out[0].T)[0, 1]
        assert abs(correlation) < 5 / math.sqrt(count)  # heads drop elements of their own

    def test_the_backward_drops_what_the_forward_dropped(self):
        module, x = MultiheadAttention(4, 2, dropout=0.5).double(), torch.randn(5, 1, 4).double().requires_grad_()

        def seeded(x):
            torch.manual_seed(5)
            return module(x, x, x, need_weights=False)[0]

        assert torch.autograd.gradcheck(seeded, (x,))

    def test_of_everything(self):
        module, x = MultiheadAttention(8, 2, dropout=1.0), torch.randn(5, 2, 8)
        assert torch.equal(module(x, x, x)[0], module.out_proj.bias.expand(5, 2, 8))


@pytest.mark.parametrize(
    "changes",
    [
        {"query": torch.zeros(4)},
        {"query": torch.zeros(5, 2, 3)},
        {"key": torch.zeros(4, 8)},
        {"value": torch.zeros(3, 2, 8)},
        {"key_padding_mask": torch.zeros(2, 4, dtype=torch.long)},
        {"key_padding_mask": torch.zeros(2, 3, dtype=torch.bool)},
        {"key_padding_mask": torch.zeros(4, dtype=torch.bool)},
        {"attn_mask": torch.zeros(5, 4, dtype=torch.long)},
        {"attn_mask": torch.zeros(4, 5)},
        {"attn_mask": torch.zeros(4)},
        {"attn_mask": torch.zeros(2, 5, 4)},
    ],
)
def test_errors_are_of_the_kind_that_torch_raises_and_name_the_argument(changes):
    inputs = {"query": torch.zeros(5, 2, 8), "key": torch.zeros(4, 2, 8), "value": torch.zeros(4, 2, 8)} | changes
    ours, theirs = pair(8, 2)
    with pytest.raises((AssertionError, RuntimeError)) as expected:
        theirs(**inputs)
    with pytest.raises(expected.type, match=next(iter(changes))):
        ours(**inputs)


def test_constructor_refuses_what_torch_refuses():
    with pytest.raises(AssertionError, match="divisible"):
        MultiheadAttention(7, 2)
    with pytest.raises(ValueError, match="greater than 0"):
        MultiheadAttention(0, 2)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@torch.no_grad()
def test_ragged_batches_are_left_to_torch():
    ours, theirs = (module.eval() for module in pair(8, 2, batch_first=True))
    batch = torch.nested.nested_tensor([torch.randn(5, 8), torch.randn(2, 8)])
    found, expected = (module(batch, batch, batch, need_weights=False)[0] for module in (ours, theirs))
    for x, y in zip(found.unbind(), expected.unbind(), strict=True):
        assert torch.equal(x, y)
