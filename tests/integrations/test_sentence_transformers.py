"""sentence-transformers' loss and scores, by ours."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")

from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import dot_score
from sentence_transformers.util import maxsim as their_maxsim
from sentence_transformers.util import mean_maxsim as their_mean_maxsim

from xmkern.integrations import sentence_transformers as integration
from xmkern.testing import assert_matches_reference

BOTH = ("query_to_doc", "doc_to_query")


@pytest.mark.parametrize("negatives", [0, 1, 2])
@pytest.mark.parametrize(
    "options",
    [{}, {"similarity_fct": dot_score, "scale": 1.5}, {"directions": BOTH},
     {"directions": BOTH, "partition_mode": "per_direction"}],
)  # fmt: skip
def test_loss(options, negatives):
    torch.manual_seed(0)
    inputs = {name: torch.randn(6, 8).requires_grad_() for name in "abcd"[: 2 + negatives]}
    ours, theirs = (
        cls(torch.nn.Identity(), **options)
        for cls in (integration.MultipleNegativesRankingLoss, MultipleNegativesRankingLoss)
    )
    assert isinstance(ours, MultipleNegativesRankingLoss)
    assert ours.get_config_dict() == theirs.get_config_dict()
    assert_matches_reference(
        lambda **x: ours.compute_loss_from_embeddings([*x.values()], None), inputs,
        reference=lambda **x: theirs.compute_loss_from_embeddings([*x.values()], None),
    )  # fmt: skip


class Largest(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor))])
        return result


def test_no_matrix_of_scores():
    x = [torch.randn(500, 4).requires_grad_() for _ in range(2)]
    loss = integration.MultipleNegativesRankingLoss(None)
    with Largest() as seen:
        loss.compute_loss_from_embeddings(x, None).backward()
    assert seen.numel <= 500 * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity_fct": torch.dist}, "similarity_fct must be cos_sim or dot_score"),
        ({"directions": ("query_to_doc", "query_to_query")}, "directions must be query_to_doc"),
        ({"gather_across_devices": True}, "gather_across_devices must be False"),
        ({"hardness_mode": "all_negatives", "hardness_strength": 1.0}, "hardness_mode must be None"),
    ],
)
def test_what_is_not_computed_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        integration.MultipleNegativesRankingLoss(None, **options)


@pytest.mark.parametrize(("mean", "masked"), itertools.product([False, True], repeat=2))
def test_late_interaction(mean, masked):
    torch.manual_seed(0)
    a, b = torch.randn(3, 4, 8), torch.randn(5, 6, 8)
    masks = (torch.tensor([4, 1, 3]), torch.tensor([6, 2, 5, 1, 6]))
    given = [torch.arange(n) < lengths[:, None] for n, lengths in zip((4, 6), masks, strict=True)] if masked else []
    ours, theirs = (integration.mean_maxsim, their_mean_maxsim) if mean else (integration.maxsim, their_maxsim)
    torch.testing.assert_close(ours(a, b, *given), theirs(a, b, *given))
    if masked:
        samples = [
            [x[:n] for x, n in zip(each, lengths, strict=True)] for each, lengths in zip((a, b), masks, strict=True)
        ]
        torch.testing.assert_close(ours(*samples), theirs(*samples))
        with pytest.raises(ValueError, match="goes with padded tokens"):
            ours(*samples, *given)


def test_late_interaction_of_one_sample():
    torch.manual_seed(0)
    a, b = torch.randn(4, 8), torch.randn(5, 6, 8)
    there = torch.arange(6) < torch.tensor([6, 2, 5, 1, 6])[:, None]
    torch.testing.assert_close(integration.maxsim(a, b), their_maxsim(a, b))
    torch.testing.assert_close(integration.maxsim(b, a, there), their_maxsim(b, a, there))
