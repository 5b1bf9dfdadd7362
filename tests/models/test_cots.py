"""COTS remembers pairs of batches before, and its slow towers follow."""

import torch

from xmkern.models import create_model


def batch() -> dict[str, torch.Tensor]:
    words = torch.randint(5, 99, (4, 6))
    words[:, 0], words[:, -1] = 1, 2
    return {"pictures": torch.randn(4, 3, 64, 64), "words": words, "ids": torch.tensor([3, 9, 3, 5])}


def test_the_queue_holds_the_last_batches_and_the_slow_towers_follow_in_training_alone() -> None:
    torch.manual_seed(0)
    model = create_model("cots", queue=6, momentum=0.5)
    fast, slow = model.text.out.weight, model.slow[1].out.weight
    assert torch.equal(fast, slow)
    with torch.no_grad():
        fast += 1
    before = slow.clone()
    model.eval().loss(batch())
    assert torch.equal(slow, before)
    assert model.queued_ids.tolist() == [-1] * 6
    model.train().loss(batch())
    torch.testing.assert_close(slow, before + 0.5)
    assert model.queued_ids.tolist() == [3, 9, 3, 5, -1, -1]
    later = batch() | {"ids": torch.tensor([1, 2, 4, 6])}
    model.loss(later)
    assert model.queued_ids.tolist() == [1, 2, 4, 6, 3, 9]
    torch.testing.assert_close(model.queued_texts[:4], model.slow[1](later["words"])[0])


def test_a_hidden_patch_is_not_seen() -> None:
    torch.manual_seed(0)
    tower = create_model("cots").vision
    pictures, hidden = torch.randn(1, 3, 64, 64), torch.zeros(1, 16, dtype=torch.bool)
    hidden[:, 5] = True  # second row, second column
    changed = pictures.clone()
    changed[:, :, 16:32, 16:32] += 1
    torch.testing.assert_close(tower(changed, hidden)[1], tower(pictures, hidden)[1])
    assert not torch.allclose(tower(changed)[1], tower(pictures)[1])
