"""Parts that several systems share."""

import pytest
import torch
from torch import nn

from xmkern.models.parts.cnn import ALEXNET, CNN_F, SMALL, VGG19, PictureEncoder
from xmkern.models.parts.features import bag_of_words, thumbnail
from xmkern.models.parts.recurrent import SentenceEncoder
from xmkern.models.parts.regions import grid_regions
from xmkern.models.parts.words import IGNORED, WordHead, mask_words, masked_word_loss, word_loss


# Of the classifiers as published, less their last layer to 1,000 classes.
@pytest.mark.parametrize(
    ("config", "count"),
    [(VGG19, 143_667_240), (ALEXNET, 61_100_840), (CNN_F, 60_834_536)],
    ids=["vgg19", "alexnet", "cnn_f"],
)
def test_a_published_network_has_its_size(config, count):
    with torch.device("meta"):
        encoder = PictureEncoder(config)
        assert encoder(torch.empty(1, 3, 224, 224)).shape == (1, 4096)
    assert sum(p.numel() for p in encoder.parameters()) == count - 4097 * 1000


def test_places_are_the_map_row_by_row():
    encoder = PictureEncoder(SMALL).eval()
    pictures = torch.randn(2, 3, 64, 64)
    places = encoder.places(pictures)
    assert places.shape == (2, 16, encoder.channels)
    torch.testing.assert_close(places[:, 5], encoder.map(pictures)[:, :, 1, 1])
    torch.testing.assert_close(places.mean(1), encoder(pictures))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_does_not_touch_a_sentence(cell, bidirectional):
    encoder = SentenceEncoder(20, 6, 5, cell=cell, bidirectional=bidirectional, layers=2)
    words = torch.tensor([[1, 7, 8, 2, 0, 0], [1, 9, 2, 0, 0, 0]])
    read = encoder(words)
    for row, count in zip(range(2), (4, 3), strict=True):
        states, last = encoder.sequence.cell(encoder.word(words[row : row + 1, :count]))
        last = last[0] if isinstance(last, tuple) else last
        torch.testing.assert_close(read.states[row, :count], states[0])
        torch.testing.assert_close(read.last[row], last[-1 - bidirectional :].flatten())
    assert not read.states[1, 3:].any()
    assert isinstance(encoder.sequence.cell, nn.LSTM if cell == "lstm" else nn.GRU)


def test_a_bag_counts_words_and_nothing_else():
    bag = bag_of_words(torch.tensor([[1, 7, 5, 7, 4, 2, 0]]), 9)
    assert bag.tolist() == [[0, 0, 0, 0, 0, 1, 0, 2, 0]]


def test_a_thumbnail_keeps_mean_colours():
    pictures = torch.zeros(1, 3, 8, 8)
    pictures[0, 1, :4, 4:] = 2
    assert thumbnail(pictures, 2).view(3, 4).tolist() == [[0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0]]


def test_where_nothing_is_hidden_there_is_no_loss():
    head = WordHead(8, nn.Embedding(20, 8))
    tokens = torch.randn(2, 3, 8, requires_grad=True)
    masked = mask_words(torch.tensor([[1, 4, 2], [1, 4, 2]]), 20)
    assert (masked.targets == IGNORED).all()
    for loss in (masked_word_loss(head, tokens, masked.targets), word_loss(head(tokens), masked.targets)):
        assert loss == 0
        loss.backward()
        assert not tokens.grad.any()
    targets = torch.tensor([[IGNORED, 7, IGNORED], [9, IGNORED, IGNORED]])
    logits = head(tokens)
    expected = nn.functional.cross_entropy(torch.stack([logits[0, 1], logits[1, 0]]), torch.tensor([7, 9]))
    torch.testing.assert_close(masked_word_loss(head, tokens, targets), expected)
    torch.testing.assert_close(word_loss(logits, targets), expected)


def test_regions_are_the_cells_of_a_picture_of_any_shape():
    pictures = torch.randn(2, 3, 16, 32)
    features, boxes = grid_regions(pictures)
    assert features.shape == (2, 17, 3 * 4 * 8)
    assert boxes.shape == (2, 17, 4)
    assert boxes[0, 1 + 6].tolist() == [0.5, 0.25, 0.75, 0.5]
    torch.testing.assert_close(features[:, 1 + 6], pictures[:, :, 4:8, 16:24].flatten(1))
    torch.testing.assert_close(features[:, 0].view(2, 3, 4, 8).mean((2, 3)), pictures.mean((2, 3)))
