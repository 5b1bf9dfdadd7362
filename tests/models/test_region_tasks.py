"""What stands for a detector's labels, and what systems that read regions are trained by."""

import torch

from xmkern.models import create_model
from xmkern.models.parts.region_tasks import choose_regions, mismatch, region_labels
from xmkern.models.parts.regions import grid_regions
from xmkern.models.uniter import seven


def test_labels_of_a_region_are_its_colours_and_how_full_it_is() -> None:
    red, white = torch.tensor([1.0, -1.0, -1.0]), torch.ones(3)
    pixels = torch.stack([red, white, white, white, white], 1)  # one of five pixels is red
    labels = region_labels(pixels.flatten()[None, None])
    assert labels.classes[0, 0, 2 * 9] == 0.2
    torch.testing.assert_close(labels.classes[0, 0, 26].item(), 0.8)
    assert labels.attributes.tolist() == [[0]]
    assert region_labels(red[:, None].expand(3, 5).flatten()[None, None]).attributes.tolist() == [[3]]


def test_every_second_sentence_is_anothers_unless_it_is_the_same() -> None:
    words = torch.tensor([[1, 7], [1, 8], [1, 9], [1, 9]])
    paired = mismatch(words)
    assert paired.words.tolist() == [[1, 7], [1, 7], [1, 9], [1, 9]]
    assert paired.match.tolist() == [1, 0, 1, 1]


def test_at_least_one_region_of_each_sample_is_chosen() -> None:
    torch.manual_seed(0)
    assert choose_regions(torch.zeros(50, 4, 2), 0.01).any(1).all()
    assert abs(choose_regions(torch.zeros(50, 400, 2), 0.2).float().mean() - 0.2) < 0.02


def test_uniters_box_has_seven_numbers() -> None:
    found = seven(torch.tensor([0.25, 0.0, 0.75, 0.25]))
    torch.testing.assert_close(found, torch.tensor([0.25, 0.0, 0.75, 0.25, 0.5, 0.25, 0.125]))


def test_uniter_does_not_see_what_is_hidden() -> None:
    torch.manual_seed(0)
    model = create_model("uniter").eval()
    regions, boxes = grid_regions(torch.randn(2, 3, 64, 64))
    words = torch.tensor([[1, 7, 2, 0], [1, 8, 9, 2]])
    hidden = torch.zeros(2, 17, dtype=torch.bool)
    hidden[:, 3] = True
    changed = regions.clone()
    changed[:, 3] += 1
    torch.testing.assert_close(model(changed, boxes, words, hidden), model(regions, boxes, words, hidden))
    assert not torch.allclose(model(changed, boxes, words).pooled, model(regions, boxes, words).pooled)


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    regions, boxes = grid_regions(torch.randn(2, 3, 64, 64))
    words = torch.tensor([[1, 7, 2], [1, 8, 2]])
    padded = torch.nn.functional.pad(words, (0, 3))
    for name in ("visualbert", "uniter", "lxmert", "vilbert"):
        model = create_model(name).eval()
        torch.testing.assert_close(model(regions, boxes, padded).pooled, model(regions, boxes, words).pooled)
