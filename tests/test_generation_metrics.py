"""Metrics of generated pictures have the values that theory or counting gives."""

import numpy as np
import pytest
import torch

from xmkern.metrics import frechet_distance, picture_statistics, r_precision


def test_frechet_distance_of_normal_distributions() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    # Exactly of mean 0 and covariance 1, so that the formula gives numbers to be computed by hand.
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + np.array([3, 4, 0])) == pytest.approx(25)
    assert frechet_distance(x, x * np.array([2, 1, 3])) == pytest.approx((2 - 1) ** 2 + (3 - 1) ** 2)
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    assert (
        frechet_distance(x * np.array([2, 1, 3]), x * np.array([2, 1, 3]) @ turn.T) > 0.1
    )  # covariances that do not commute
    # A distribution that is a point: the whole variance is left over.
    assert frechet_distance(np.zeros((2, 3)), x) == pytest.approx(3)
    few = rng.normal(size=(10, 40))  # whose covariance has no full rank
    assert 0 <= frechet_distance(few, few) < 1e-6
    with pytest.raises(ValueError, match="y must have 3"):
        frechet_distance(x, x[:, :2])


def test_statistics_are_of_colours_and_edges() -> None:
    pictures = torch.full((2, 3, 8, 8), -1.0)
    pictures[0, 0, :, :4] = 1.0  # red on the left
    pictures[1, :, ::2] = 1.0  # stripes along the rows
    red, stripes = picture_statistics(pictures)
    torch.testing.assert_close(red[:12].view(3, 4), torch.tensor([[1.0, -1, 1, -1], [-1] * 4, [-1] * 4]))
    torch.testing.assert_close(red[12:24], torch.zeros(12))
    torch.testing.assert_close(stripes[12:24], torch.ones(12))
    right, down = stripes[24:28], stripes[28:32]
    torch.testing.assert_close(right, torch.zeros(4))
    torch.testing.assert_close(down, torch.tensor([2.0, 2.0, 1.5, 1.5]))  # the last row has no neighbour
    torch.testing.assert_close(red[24:28], torch.tensor([2 / 3 / 4, 0, 2 / 3 / 4, 0]))
    torch.testing.assert_close(picture_statistics(pictures * 9), picture_statistics(pictures))
    flat = picture_statistics(torch.full((1, 3, 64, 64), 0.93))
    torch.testing.assert_close(flat[0, 12:24], torch.zeros(12), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="even sides"):
        picture_statistics(torch.zeros(1, 3, 7, 8))


def test_r_precision_counts_what_is_relevant_among_the_first() -> None:
    scores = np.array([[0.9, 0.1, 0.5, 0.7], [0.1, 0.2, 0.3, 0.4], [1, 1, 1, 1]])
    relevant = np.array([[1, 0, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1]], bool)
    assert r_precision(scores, relevant) == pytest.approx((1 + 0.5 + 0) / 3)
    assert r_precision(scores[:1], relevant[:1]) == 1
    assert np.isnan(r_precision(scores, np.zeros_like(relevant)))
    first = np.array([[True, False]])
    assert r_precision(np.array([[200, 0]], np.uint8), first) == 1
    assert r_precision(np.array([[-128, 0]], np.int8), ~first) == 1
    assert r_precision(first, first) == 1
    assert r_precision(torch.tensor([[2.0, 1.0]], dtype=torch.bfloat16, requires_grad=True), torch.tensor(first)) == 1
    with pytest.raises(ValueError, match="scores must not hold NaN"):
        r_precision(np.array([[np.nan, 1]]), first)
    with pytest.raises(ValueError, match="relevant"):
        r_precision(scores, relevant[:2])
