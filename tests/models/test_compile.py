"""The transformers' forward is one graph."""

import inspect
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from xmkern.models import create_model, list_models
from xmkern.models.parts.regions import FEATURES, REGIONS

# Sections whose systems are transformers throughout.
SECTIONS = ("C", "D", "E")


def inputs(model: Any) -> list[Any]:
    """What the model's forward takes, by the arguments' names; what has a default is left out."""
    arguments = inspect.signature(model.forward).parameters
    # Where codes of a picture stand behind the words, both have their full lengths.
    drawn = hasattr(model.config, "codec")
    words = torch.randint(5, 99, (2, model.config.length if drawn else 12))
    words[0, 5], words[0, 6:], words[1, -1] = 2, 0, 2
    regions, boxes = torch.randn(2, REGIONS, FEATURES), torch.rand(2, REGIONS, 4)
    made = {
        "answer": words,
        "boxes": boxes,
        "codes": torch.randint(0, 9, (2, model.config.codec.side**2 if drawn else 6)),
        "forward": torch.tensor([True, False]),
        "pictures": torch.randn(2, 3, 64, 64),
        "regions": regions if "boxes" in arguments else (regions, boxes),
        "words": words,
    }
    return [made[name] for name, argument in arguments.items() if argument.default is argument.empty]


@pytest.mark.parametrize("name", [name for section in SECTIONS for name in list_models(section)])
def test_forward_is_one_graph(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name).eval()
    given = inputs(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        found, expected = tree_leaves(compiled(*given)), tree_leaves(model(*given))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
