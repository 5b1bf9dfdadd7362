"""VQ-VAE and DALL-E: what is rounded to what, who gets which gradient, who sees whom."""

import pytest
import torch

from xmkern.data.words import BEGIN
from xmkern.models import create_model


def test_a_picture_is_rounded_to_the_nearest_codes_and_rebuilt_from_them() -> None:
    torch.manual_seed(0)
    model = create_model("vqvae")
    torch.nn.init.normal_(model.codes)
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    out = model(pictures)
    flat = out.encoded.movedim(1, -1).flatten(0, 2)
    assert torch.equal(out.codes.flatten(), torch.cdist(flat, model.codes).argmin(1))
    assert len(out.codes.unique()) > 3
    torch.testing.assert_close(model.decode(model.encode(pictures)), out.pictures)


def test_gradients_pass_by_the_rounding_and_codes_follow_the_encoder() -> None:
    torch.manual_seed(0)
    model = create_model("vqvae")
    torch.nn.init.normal_(model.codes)
    out = model(torch.rand(2, 3, 32, 32))
    weight = torch.randn_like(out.pictures)
    to_encoded, to_codes = torch.autograd.grad(
        (out.pictures * weight).sum(), [out.encoded, model.codes], allow_unused=True
    )
    quantized = out.quantized.detach().requires_grad_()
    expected = torch.autograd.grad((model.decoder(quantized) * weight).sum(), quantized)[0]
    torch.testing.assert_close(to_encoded, expected)
    assert to_codes is None


@pytest.fixture
def words() -> torch.Tensor:
    torch.manual_seed(0)
    words = torch.randint(5, 99, (2, 16))
    words[:, 0], words[0, 6:] = BEGIN, 0
    return words


def test_a_code_is_read_only_by_what_may_see_it(words: torch.Tensor) -> None:
    model = create_model("dalle", depth=1, kernel=3).eval()  # the one layer is the last: a 3 x 3 neighbourhood
    codes = torch.randint(128, (2, 64))
    before = model(words, codes).codes
    codes[:, 27] = (codes[:, 27] + 1) % 128  # row 3, column 3
    changed = ((model(words, codes).codes - before).abs().amax((0, 2)) > 1e-6).nonzero()[:, 0].tolist()
    # The logits of a code stand one place earlier: those after 27, 28 and the next row's 34, 35, 36.
    assert changed == [28, 29, 35, 36, 37]


def test_layers_take_turns(words: torch.Tensor) -> None:
    kinds = [repr(mask) for mask in create_model("dalle", depth=8).masks()]
    assert [next(kind for kind in ("row", "column", "conv") if kind in each) for each in kinds] == [
        "row", "row", "column", "row", "row", "row", "column", "conv",
    ]  # fmt: skip


def test_a_cache_changes_nothing(words: torch.Tensor) -> None:
    model = create_model("dalle").eval()
    codes = torch.randint(128, (2, 64))
    expected, reader = model(words, codes).codes, model.reader()
    found = [reader.step(words), *(reader.step(codes[:, i : i + 1]) for i in range(63))]
    torch.testing.assert_close(torch.stack(found, 1), expected, rtol=1e-4, atol=1e-4)


def test_drawing_repeats_by_its_seed(words: torch.Tensor) -> None:
    model = create_model("dalle").eval()
    pictures = model.draw(words, 3)
    assert pictures.shape == (2, 3, 32, 32)
    assert torch.equal(pictures, model.draw(words, 3))
    assert not torch.equal(pictures, model.draw(words, 4))
