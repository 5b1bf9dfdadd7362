"""DeViSE and WSABIE: whom they rank, and how."""

import torch

from xmkern.models import create_model


def test_devise_ranks_the_label_above_all_others():
    torch.manual_seed(0)
    model = create_model("devise", dim=4, margin=0.1).eval()
    pictures, vectors = torch.randn(3, 3, 64, 64), torch.nn.functional.normalize(torch.randn(5, 4), dim=1)
    labels = torch.tensor([4, 0, 4])
    scores = model.label_scores(pictures, vectors)
    hinges = (0.1 - scores.gather(1, labels[:, None]) + scores).relu()
    hinges.scatter_(1, labels[:, None], 0)
    loss = model.loss({"pictures": pictures, "labels": labels, "label_vectors": vectors})
    torch.testing.assert_close(loss, hinges.sum(1).mean())


def test_wsabie_weighs_violations_by_rank():
    torch.manual_seed(0)
    model = create_model("wsabie", side=2, vocabulary=7, dim=3)
    pictures, labels = torch.randn(4, 3, 8, 8), torch.tensor([5, 6, 0, 3])
    scores = model.word_scores(pictures)
    expected = []
    for row, label in zip(scores, labels.tolist(), strict=True):
        hinges = [(1 - row[label] + row[j]).relu() for j in range(7) if j != label]
        rank = sum(hinge > 0 for hinge in hinges)
        expected.append(sum(1 / k for k in range(1, rank + 1)) / max(rank, 1) * sum(hinges))
    torch.testing.assert_close(model.loss({"pictures": pictures, "labels": labels}), torch.stack(expected).mean())
