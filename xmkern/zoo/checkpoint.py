"""A training's state in one safetensors file: weights, optimizer, random numbers, and what was trained how."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmkern.data._packages import require


class OtherRun(ValueError):
    """A file is of another run than that which reads it."""


def save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    facts: dict[str, Any],
) -> None:
    """Writes all that a training needs to go on as if it had not stopped; what lies there is whole or the one before.

    Args:
        facts: what JSON can hold; :func:`load` returns it.
    """
    require("safetensors", "zoo")
    from safetensors.torch import save_file

    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors |= {"random.task": generator.get_state(), "random.torch": torch.get_rng_state()}
    config = dataclasses.asdict(model.config)  # type: ignore[call-overload]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as partial:
        pass
    try:
        # Weights may be shared, which the format has no word for: each name gets its own copy.
        save_file(
            {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()},
            partial.name,
            {"config": json.dumps(config), "facts": json.dumps(facts)},
        )
        Path(partial.name).replace(path)
    finally:
        Path(partial.name).unlink(missing_ok=True)


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> dict[str, Any]:
    """Fills model, optimizer and generators from a file of :func:`save` and returns its facts.

    Raises:
        OtherRun: the file is of another configuration.
    """
    require("safetensors", "zoo")
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        config = json.loads(json.dumps(dataclasses.asdict(model.config)))  # type: ignore[call-overload]
        if json.loads(metadata["config"]) != config:
            raise OtherRun(f"{path} holds a model of another configuration: {metadata['config']}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, i, entry = name.split(".", 2)
            states.setdefault(int(i), {})[entry] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    generator.set_state(tensors["random.task"])
    torch.set_rng_state(tensors["random.torch"])
    return json.loads(metadata["facts"])
