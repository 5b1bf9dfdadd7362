import pytest
import torch

from xmkern.models import create_model
from xmkern.models.dual_encoding import LevelEncoder


def test_a_sentence_is_read_on_three_levels():
    torch.manual_seed(0)
    encoder = LevelEncoder(4, 3, (2, 3), 5, 7, 6, 0.0).eval()
    x, whole = torch.randn(2, 6, 4), torch.randn(2, 7)
    x[1, 4:] = 0
    states = [encoder.sequence.cell(row[None, :count])[0][0] for row, count in zip(x, (6, 4), strict=True)]
    levels = []
    for state in states:
        # A kernel reaches over both ends, but not beyond.
        beside = []
        for convolution in encoder.convolutions:
            (width,) = convolution.kernel_size
            wide = torch.nn.functional.pad(state.T, (width - 1, width - 1))
            windows = wide.unfold(1, width, 1)
            found = torch.einsum("cpw,kcw->kp", windows, convolution.weight) + convolution.bias[:, None]
            beside.append(found.relu().amax(1))
        levels.append(torch.cat([state.mean(0), *beside]))
    joined = encoder.norm(encoder.out(torch.cat([torch.stack(levels), whole], 1)))
    found = encoder(x, torch.tensor([6, 4]), whole)
    torch.testing.assert_close(found, joined / joined.norm(dim=1, keepdim=True))


def test_without_a_cnn_it_reads_frames():
    sizes = {"frame_dim": 6, "frame_hidden": 3, "vocabulary": 20, "word_dim": 4, "word_hidden": 3, "kernels": 2}
    model = create_model("dual_encoding", "paper", dim=8, **sizes).eval()
    out = model(torch.randn(2, 5, 6), torch.tensor([[1, 7, 2, 0]]))
    assert out.video.shape == (2, 8)
    assert out.text.shape == (1, 8)
    with pytest.raises(ValueError, match=r"config\.picture"):
        model.similarity(torch.randn(2, 3, 64, 64), torch.tensor([[1, 7, 2, 0]]))


def test_padding_and_empty_sentences_are_no_words():
    torch.manual_seed(0)
    model = create_model("dual_encoding").eval()
    for convolution in model.text.convolutions:
        convolution.bias.data += 0.5  # what a window of padding alone would answer
    words = torch.tensor([[1, 7, 2], [0, 0, 0]])
    found = model.encode_text(words)
    assert found.isfinite().all()
    torch.testing.assert_close(model.encode_text(torch.nn.functional.pad(words, (0, 9))), found)
