"""What captioners say word by word is what they are trained to say in one go."""

import pytest
import torch

from xmkern.data.words import BEGIN, MASK
from xmkern.models import create_model


def batch(rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    words = torch.randint(5, 99, (rows, 9))
    words[:, 0] = BEGIN
    return torch.rand(rows, 3, 64, 64) * 2 - 1, words


@pytest.mark.parametrize("name", ["cnn_rnn", "git", "vl_t5"])
def test_a_reader_goes_on_as_the_whole_sentence(name: str) -> None:
    pictures, words = batch()
    model = create_model(name).eval()
    if name == "vl_t5":
        from xmkern.models.parts.regions import grid_regions

        expected = model(model._prompt(3), words, grid_regions(pictures)).logits
    else:
        expected = model(pictures, words).logits
    reader = model.reader(pictures)
    for start, end in ((0, 1), (1, 4), (4, 9)):
        torch.testing.assert_close(reader.step(words[:, start:end]), expected[:, end - 1], rtol=1e-4, atol=1e-4)
    # Another order of the pictures, as beams come and go.
    reader, order = model.reader(pictures), torch.tensor([2, 0, 0])
    reader.step(words[:, :1])
    reader.select(order)
    torch.testing.assert_close(reader.step(words[order, 1:3]), expected[order, 2], rtol=1e-4, atol=1e-4)


def test_unified_vlp_writes_where_a_hidden_word_stands() -> None:
    pictures, words = batch()
    model = create_model("unified_vlp").eval()
    from xmkern.models.parts.regions import grid_regions

    reader = model.reader(pictures)
    for start, end in ((0, 1), (1, 4), (4, 8)):
        asked = words.clone()
        asked[:, end] = MASK
        expected = model(grid_regions(pictures), asked, torch.ones(3, dtype=torch.bool)).logits[:, end]
        torch.testing.assert_close(reader.step(words[:, start:end]), expected, rtol=1e-4, atol=1e-4)


def test_unified_vlp_reads_each_sentence_its_own_way() -> None:
    pictures, words = batch(2)
    words[1] = words[0]
    model, regions = create_model("unified_vlp").eval(), torch.rand(2, 5, 768)
    pictures = regions[:1].expand(2, -1, -1), torch.rand(1, 5, 4).expand(2, -1, -1)
    forward = torch.tensor([True, False])
    before = model(pictures, words, forward).words
    words[:, -1] = 7
    after = model(pictures, words, forward).words
    torch.testing.assert_close(after[0, :-1], before[0, :-1])
    assert (after[1, :-1] - before[1, :-1]).abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize("attention", ["parallel", "alternating"])
def test_hiecoatt_attends_to_what_is_there(attention: str) -> None:
    pictures, words = batch(2)
    words[1, 5:] = 0
    model = create_model("hiecoatt", attention=attention).eval()
    out = model(pictures, words)
    torch.testing.assert_close(out.words.sum(-1), torch.ones(2, 3))
    torch.testing.assert_close(out.regions.sum(-1), torch.ones(2, 3))
    assert (out.words[1, :, 5:] == 0).all()
    out.logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ValueError, match="attention"):
        create_model("hiecoatt", attention="serial")


def test_oda_looks_at_differences_alone() -> None:
    _pictures, words = batch(2)
    model = create_model("oda").eval()
    features, boxes = torch.rand(2, 5, 768), torch.zeros(2, 5, 4)
    features[:, 1:] = features[:, :1]
    torch.testing.assert_close(model((features, boxes), words).weights, torch.full((2, 5, 2), 0.2))
    features[:, 0] = 0
    weights = model((features, boxes), words).weights
    torch.testing.assert_close(weights[:, 1:], weights[:, 1:2].expand(-1, 4, -1))
    assert (weights[:, 0] - weights[:, 1]).abs().min() > 1e-6
