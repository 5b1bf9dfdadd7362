"""The mask algebra: what each mask means, element by element, and that masks are small values."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import xmkern.functional as xf
from xmkern import masks
from xmkern.testing import strategies

LENGTHS = torch.tensor([0, 3, 7])
IDS, KEY_IDS = torch.tensor([[0, 0, 1, 1, 2]]), torch.tensor([[0, 1, 1, 2, 2, 2, 0]])
FLAGS = torch.tensor([True, False, True, True, False, True, True])

# Each mask and the condition that it stands for: b the sample, i the query, j the key.
MEANINGS = [
    (masks.causal(), lambda b, i, j: j <= i),
    (masks.causal(2), lambda b, i, j: j <= i + 2),
    (masks.causal(-1), lambda b, i, j: j <= i - 1),
    (masks.band(1, 2), lambda b, i, j: i - 1 <= j <= i + 2),
    (masks.band(None, 1), lambda b, i, j: j <= i + 1),
    (masks.band(0, None), lambda b, i, j: j >= i),
    (masks.band(None, None), lambda b, i, j: True),
    (masks.key_lengths(LENGTHS), lambda b, i, j: j < LENGTHS[b]),
    (masks.prefix(LENGTHS), lambda b, i, j: j < LENGTHS[b] or j <= i),
    (masks.segments(IDS, KEY_IDS), lambda b, i, j: IDS[0, i] == KEY_IDS[0, j]),
    (masks.segments(IDS[0], KEY_IDS[0].int()), lambda b, i, j: IDS[0, i] == KEY_IDS[0, j]),
    (masks.dense(FLAGS), lambda b, i, j: FLAGS[j]),
    (masks.causal() & masks.key_lengths(LENGTHS), lambda b, i, j: j <= i and j < LENGTHS[b]),
    (masks.band(0, 0) | masks.segments(IDS, KEY_IDS), lambda b, i, j: j == i or IDS[0, i] == KEY_IDS[0, j]),
    (
        masks.key_lengths(LENGTHS) & (masks.dense(FLAGS) | masks.segments(IDS, KEY_IDS)),
        lambda b, i, j: j < LENGTHS[b] and (FLAGS[j] or IDS[0, i] == KEY_IDS[0, j]),
    ),
]


@pytest.mark.parametrize(("mask", "meaning"), MEANINGS, ids=lambda x: repr(x) if isinstance(x, masks.Mask) else "")
def test_meaning(mask, meaning):
    expected = torch.tensor([[[[bool(meaning(b, i, j)) for j in range(7)] for i in range(5)]] * 2 for b in range(3)])
    assert torch.equal(mask.to_dense(3, 2, 5, 7), expected)


@pytest.mark.parametrize("kind", [("row",), ("column",), ("conv", 3)])
def test_axial(kind):
    text, height, width = 3, 3, 4
    expected = torch.zeros(15, 15, dtype=torch.bool)
    for i in range(15):
        for j in range(i + 1):
            down, right = abs((i - text) // width - (j - text) // width), abs((i - text) % width - (j - text) % width)
            near = {"row": down == 0, "column": right == 0, "conv": max(down, right) <= 1}[kind[0]]
            expected[i, j] = j < text or near
    assert torch.equal(masks.axial(text, height, width, *kind).to_dense(1, 1, 15, 15)[0, 0], expected)


@given(strategies.mask((2, 2, 11, 13)), strategies.mask((2, 2, 11, 13)))
def test_combining(a, b):
    shape = (2, 2, 11, 13)
    assert torch.equal((a & b).to_dense(*shape), a.to_dense(*shape) & b.to_dense(*shape))
    assert torch.equal((a | b).to_dense(*shape), a.to_dense(*shape) | b.to_dense(*shape))


@given(st.data())
def test_repr_says_what_the_mask_is(data):
    """With no tensors in it, the repr makes the mask again."""
    parts = st.sampled_from(
        [masks.causal(), masks.causal(-3), masks.band(2, 4), masks.band(1, None), masks.axial(2, 3, 3, "column"),
         masks.axial(2, 3, 3, "row"), masks.axial(0, 4, 2, "conv", 5)]
    )  # fmt: skip
    mask = data.draw(parts)
    for _ in range(data.draw(st.integers(0, 3))):
        left, right = (mask, data.draw(parts))[:: data.draw(st.sampled_from([1, -1]))]
        mask = left & right if data.draw(st.booleans()) else left | right
    again = eval(repr(mask), vars(masks))
    assert torch.equal(again.to_dense(1, 1, 13, 14), mask.to_dense(1, 1, 13, 14))


def test_repr():
    assert repr(masks.prefix(LENGTHS) & masks.band(4, None)) == "prefix(<[3]>) & band(4, None)"
    assert repr((masks.causal() | masks.dense(FLAGS)) & masks.segments(IDS)) == (
        "(causal() | dense(<[1, 1, 1, 7]>)) & segments(<[1, 5]>)"
    )
    assert repr(masks.key_lengths(LENGTHS) & masks.band(1, 1) | masks.causal()) == (
        "key_lengths(<[3]>) & band(1, 1) | causal()"
    )


def test_masks_are_frozen_values():
    mask = masks.causal() & masks.key_lengths(LENGTHS)
    same, other = masks.causal() & masks.key_lengths(LENGTHS), masks.causal() & masks.key_lengths(LENGTHS.clone())
    assert mask == same
    assert hash(mask) == hash(same)
    assert mask != other
    assert mask != masks.key_lengths(LENGTHS) & masks.causal()
    assert len({mask, same, other}) == 2
    with pytest.raises((AttributeError, TypeError)):
        mask.program = ()


def test_masks_are_copied_and_pickled():
    mask = masks.axial(2, 3, 3, "row") & masks.key_lengths(torch.tensor([4, 9]))
    for again in (pickle.loads(pickle.dumps(mask)), copy.deepcopy(mask), mask.to("cpu")):
        assert torch.equal(again.to_dense(2, 1, 11, 11), mask.to_dense(2, 1, 11, 11))
    assert mask.to("meta").tensors[0].device.type == "meta"


def test_masks_stay_small():
    """A mask of a long sequence is a few numbers and its tensors, however it is combined."""
    mask = masks.causal() & masks.band(1000, 0) & masks.segments(torch.zeros(1, 1_000_000, dtype=torch.int64))
    assert len(pickle.dumps(mask)) < 8_010_000
    assert len(mask.program) < 20


@pytest.mark.parametrize("masked", [torch.bool, torch.float32])
@pytest.mark.parametrize("shape", [(7,), (5, 1), (5, 7), (2, 1, 7), (3, 1, 5, 7), (1, 2, 1, 1)])
def test_tensors_as_masks_broadcast_from_the_right(shape, masked):
    query, key, value = torch.randn(3, 2, 5, 8), torch.randn(3, 2, 7, 8), torch.randn(3, 2, 7, 8)
    visible = torch.rand(shape) < 0.6
    mask = visible if masked == torch.bool else torch.where(visible, torch.randn(shape), -torch.inf)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask.expand(3, 2, 5, 7))
    torch.testing.assert_close(xf.attention(query, key, value, mask), expected)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: masks.key_lengths([3]), TypeError, "lengths must be a tensor of integers, not list"),
        (lambda: masks.key_lengths(torch.ones(2)), TypeError, "lengths must hold integers, not torch.float32"),
        (lambda: masks.prefix(torch.ones(2, 2).int()), ValueError, r"lengths must have one axis, \[B\]"),
        (lambda: masks.segments(torch.ones(2).bool()), TypeError, "ids must hold integers, not torch.bool"),
        (lambda: masks.segments(torch.ones(1, 1, 2).int()), ValueError, r"ids must have the axes \[B, length\]"),
        (lambda: masks.segments(IDS, IDS.to("meta")), ValueError, "key_ids must be on cpu as ids are, not on meta"),
        (lambda: masks.dense([True]), TypeError, "visible must be a tensor, not list"),
        (lambda: masks.dense(torch.ones(2)), TypeError, "visible must be bool"),
        (lambda: masks.dense(torch.ones(1, 1, 1, 1, 1).bool()), ValueError, "visible must have at most 4 axes"),
        (lambda: masks.axial(-1, 2, 2), ValueError, "text_len must be at least 0, not -1"),
        (lambda: masks.axial(1, 0, 2), ValueError, "height must be at least 1, not 0"),
        (lambda: masks.axial(1, 2, 2, "diagonal"), ValueError, "kind must be 'row', 'column' or 'conv'"),
        (lambda: masks.axial(1, 2, 2, "conv"), ValueError, "kernel goes with kind='conv'"),
        (lambda: masks.axial(1, 2, 2, "row", 3), ValueError, "kernel goes with kind='conv'"),
        (lambda: masks.axial(1, 2, 2, "conv", 4), ValueError, "kernel must be odd and positive, not 4"),
        (lambda: masks.axial(1, 2, 2, "conv", 3.0), TypeError, "kernel must be an integer, not 3.0"),
        (lambda: masks.axial(1, 2.0, 2), TypeError, "height must be an integer, not 2.0"),
        (lambda: masks.causal(1.5), TypeError, "causal: offset must be an integer, not 1.5"),
        (lambda: masks.causal(LENGTHS), TypeError, "causal: offset must be an integer, not tensor.*for all samples"),
        (lambda: masks.band(None, 2.0), TypeError, "band: right must be an integer, not 2.0"),
        (lambda: masks.causal() & FLAGS, TypeError, "unsupported operand"),
        (lambda: masks.key_lengths(LENGTHS).to_dense(2, 1, 5, 7), ValueError, r"key_lengths must fit \[B\] = \[2\]"),
        (lambda: masks.segments(IDS).to_dense(2, 1, 5, 7), ValueError, r"key_ids must fit \[B, S\].*give key_ids"),
        (lambda: masks.segments(IDS[:, :1]).to_dense(1, 1, 5, 5), ValueError, r"ids must fit \[B, L\] = \[1, 5\]"),
        (lambda: masks.dense(FLAGS).to_dense(1, 1, 5, 8), ValueError, r"dense must fit \[B, H, L, S\]"),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_mask_nests_no_deeper_than_the_kernels_stack():
    mask = masks.causal()
    for _ in range(40):  # joined from left to right, a mask may be as long as it likes
        mask = mask & masks.band(3, 3)
    x = torch.randn(1, 1, 9, 8)
    expected = xf.attention(x, x, x, masks.band(3, 0))
    torch.testing.assert_close(xf.attention(x, x, x, mask), expected)
    deep = masks.causal()
    for _ in range(31):
        deep = masks.band(3, 3) & deep
    torch.testing.assert_close(xf.attention(x, x, x, deep), expected)
    with pytest.raises(ValueError, match="nests at most 32 deep"):
        masks.band(3, 3) & deep


@pytest.mark.parametrize("wrong", [[1], "1", 1.0, None, torch.tensor(1)])
def test_an_offset_that_is_no_integer(wrong):
    with pytest.raises(TypeError, match="causal: offset must be an integer"):
        masks.causal(wrong)


def test_an_offset_that_no_kernel_can_count():
    with pytest.raises(ValueError, match="causal: offset must fit in 64 bits"):
        masks.causal(10**20)
