"""Known answers by hand and by brute force."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xmkern.metrics import mean_average_precision, recall_at_k


def average_precision(relevance) -> float:
    """The definition, for one ranked list."""
    hits, total = 0, 0.0
    for rank, relevant in enumerate(relevance, start=1):
        if relevant:
            hits += 1
            total += hits / rank
    return total / hits


def mean_over_tied_orders(distances, relevance) -> float:
    """Averages over every order of the gallery that is sorted by distance."""
    orders = [p for p in permutations(range(len(distances))) if sorted(distances) == [distances[i] for i in p]]
    return float(np.mean([average_precision([relevance[i] for i in p]) for p in orders]))


def test_textbook_list():
    # Relevant at ranks 1, 3 and 4: (1/1 + 2/3 + 3/4) / 3.
    got = mean_average_precision([[0.1, 0.2, 0.3, 0.4, 0.5]], [[1, 0, 1, 1, 0]])
    assert got == pytest.approx((1 + 2 / 3 + 3 / 4) / 3, abs=1e-15)


def test_half_precision_is_read():
    for dtype in (torch.bfloat16, torch.float16):
        assert mean_average_precision(torch.tensor([[3, 1, 2]], dtype=dtype), [[0, 0, 1]]) == pytest.approx(1 / 2)


def test_the_gallery_is_ranked_by_distance_and_not_taken_as_it_lies():
    assert mean_average_precision([[3, 1, 2]], [[False, False, True]]) == pytest.approx(1 / 2)
    assert mean_average_precision([[3, 2, 1]], [[False, False, True]]) == 1.0


def test_ties_by_index_take_the_smaller_index_first():
    assert mean_average_precision([[5, 5, 5, 5]], [[0, 1, 0, 0]]) == pytest.approx(1 / 2)
    assert mean_average_precision([[5, 5, 5, 5]], [[0, 0, 0, 1]]) == pytest.approx(1 / 4)


def test_expected_ties_by_hand():
    # One relevant item of two that tie: it is first or second with equal chance.
    assert mean_average_precision([[7, 7]], [[0, 1]], ties="expected") == pytest.approx((1 + 1 / 2) / 2)
    # All tie and all are relevant: every order is perfect.
    assert mean_average_precision([[7, 7, 7]], [[1, 1, 1]], ties="expected") == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_expected_ties_are_the_mean_over_all_permutations(data):
    n = data.draw(st.integers(1, 6))
    distances = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    relevance = data.draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any))
    got = mean_average_precision([distances], [relevance], ties="expected")
    assert got == pytest.approx(mean_over_tied_orders(distances, relevance), abs=1e-12)


def test_expected_ties_do_not_depend_on_the_gallery_order():
    rng = np.random.default_rng(0)
    distances, relevance = rng.integers(0, 5, (4, 50)), rng.random((4, 50)) < 0.2
    shuffle = rng.permutation(50)
    one, other = (
        mean_average_precision(d, r, ties="expected")
        for d, r in ((distances, relevance), (distances[:, shuffle], relevance[:, shuffle]))
    )
    assert one == pytest.approx(other, abs=1e-14)
    assert mean_average_precision(distances, relevance) != pytest.approx(one, abs=1e-6)


def test_both_kinds_agree_without_ties():
    rng = np.random.default_rng(1)
    distances, relevance = rng.permuted(np.tile(np.arange(30), (5, 1)), axis=1), rng.random((5, 30)) < 0.3
    by_index = mean_average_precision(distances, relevance)
    assert by_index == pytest.approx(mean_average_precision(distances, relevance, ties="expected"), abs=1e-14)
    want = np.mean([average_precision(r[np.argsort(d)]) for d, r in zip(distances, relevance, strict=True)])
    assert by_index == pytest.approx(want, abs=1e-14)


def test_queries_without_a_relevant_item_are_left_out():
    assert mean_average_precision([[1, 2], [1, 2]], [[0, 1], [0, 0]]) == pytest.approx(1 / 2)
    assert np.isnan(mean_average_precision([[1, 2]], [[0, 0]]))


def test_torch_tensors_go_in():
    got = mean_average_precision(torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[False, True]]))
    assert got == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (([1, 2], [1, 0]), {}, "distances"),
        (([[1, 2]], [[1, 0, 1]]), {}, "relevance"),
        (([[1, 2]], [[1, 2]]), {}, "relevance"),
        (([[1, float("nan")]], [[1, 0]]), {}, "distances"),
        (([[1, 2]], [[1, 0]]), {"ties": "random"}, "ties"),
    ],
)
def test_map_names_the_wrong_argument(arguments, keywords, message):
    with pytest.raises(ValueError, match=message):
        mean_average_precision(*arguments, **keywords)


def test_recall_by_hand():
    # Query 0 hits at rank 1, query 1 at rank 3, query 2 never.
    indices = [[2, 0, 1], [0, 2, 1], [0, 1, 2]]
    got = recall_at_k(indices, [30, 20, 99], [10, 20, 30], ks=(1, 2, 3))
    assert got == {1: pytest.approx(1 / 3), 2: pytest.approx(1 / 3), 3: pytest.approx(2 / 3)}


def test_any_of_several_positives_is_a_hit_and_counts_once():
    assert recall_at_k([[1, 0], [3, 2]], [7, 7], [7, 8, 7, 7], ks=(1, 2)) == {1: 0.5, 2: 1.0}


def test_missing_results_are_no_hits():
    # -1 would be the last gallery item if it were used as an index.
    assert recall_at_k([[-1, -1]], [5], [4, 5], ks=(2,)) == {2: 0.0}
    assert recall_at_k(torch.full((1, 1), -1), torch.tensor([5]), torch.tensor([], dtype=torch.int64), ks=(1,)) == {
        1: 0
    }


@pytest.mark.parametrize(
    ("indices", "queries", "gallery", "ks", "message"),
    [
        ([0, 1], [1, 2], [1, 2], (1,), "indices"),
        ([[0.0]], [1], [1], (1,), "indices"),
        ([[2]], [1], [1, 2], (1,), "indices"),
        ([[-2]], [1], [1, 2], (1,), "indices"),
        ([[0]], [1, 2], [1, 2], (1,), "query_ids"),
        ([[0]], [1], [[1, 2]], (1,), "gallery_ids"),
        ([[0]], [1], [1, 2], (2,), "ks"),
        ([[0]], [1], [1, 2], (0,), "ks"),
    ],
)
def test_recall_names_the_wrong_argument(indices, queries, gallery, ks, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(indices, queries, gallery, ks=ks)
