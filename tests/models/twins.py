"""What parity tests share: another library's model beside ours, and what it means that they agree."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmkern.data.words import END
from xmkern.models import load_reference
from xmkern.models.parts.words import lengths
from xmkern.models.weights import renamed


class Twin(NamedTuple):
    """Another library's model, ours of the same sizes, and what each makes of the same inputs, which must agree."""

    theirs: Any
    ours: Any
    outputs: Callable[[], tuple[tuple[Tensor, Tensor], ...]]


def inputs(size: int = 32, vocabulary: int = 99, length: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures [3, 3, H, W], words [3, T] of different lengths that end with END, and which of them are there."""
    pictures, words = torch.randn(3, 3, size, size), torch.randint(5, vocabulary, (3, length))
    for row, count in zip(words, (length, 5, 9), strict=True):
        row[count - 1], row[count:] = END, 0
    return pictures, words, torch.arange(length) < lengths(words)[:, None]


def assert_same(make: Callable[[], Twin]) -> None:
    """The same weights give the same outputs, to 1e-4, and the same gradients."""
    torch.manual_seed(0)
    theirs, ours, outputs = make()
    theirs.eval(), ours.eval()
    load_reference(ours, theirs.state_dict())
    pairs = outputs()
    for expected, found in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    weights = [torch.randn_like(expected) for expected, _ in pairs]
    gradients: list[dict[str, Tensor]] = []
    for model, side in ((theirs, 0), (ours, 1)):
        model.zero_grad()
        torch.stack([(pair[side] * weight).sum() for pair, weight in zip(pairs, weights, strict=True)]).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    # The reference's gradients go through the same renaming as its weights.
    expected = renamed(gradients[0], ours)
    for name, found in gradients[1].items():
        shaped = expected[name].reshape(found.shape)
        torch.testing.assert_close(found, shaped, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
