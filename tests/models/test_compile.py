"""The transformers' forward is one graph."""

import inspect
from typing import Any

import pytest
import torch

from xmkern.models import create_model, list_models
from xmkern.models.parts.regions import FEATURES, REGIONS

# Sections whose systems are transformers throughout.
SECTIONS = ("C", "D", "E")


def inputs(model: Any) -> list[torch.Tensor]:
    """What the model's forward takes, by the arguments' names."""
    words = torch.randint(5, 99, (2, 12))
    words[0, 5], words[0, 6:], words[1, -1] = 2, 0, 2
    made = {
        "words": lambda: words,
        "pictures": lambda: torch.randn(2, 3, 64, 64),
        "regions": lambda: torch.randn(2, REGIONS, FEATURES),
        "boxes": lambda: torch.rand(2, REGIONS, 4),
        "codes": lambda: torch.randint(0, 9, (2, 6)),
    }
    wanted = inspect.signature(model.forward).parameters.values()
    return [made[argument.name]() for argument in wanted if argument.default is argument.empty]


@pytest.mark.parametrize("name", [name for section in SECTIONS for name in list_models(section)])
def test_forward_is_one_graph(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name).eval()
    given = inputs(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        for found, expected in zip(compiled(*given), model(*given), strict=True):
            torch.testing.assert_close(found, expected)
