"""Weights that other libraries name otherwise."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

# Projections that we keep in one, and the names of their parts.
_JOINED = {"qkv": ("q", "k", "v"), "kv.0": ("k", "v"), "kv.1": ("added_k", "added_v")}


def load_reference(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Fills a system with the weights of the class that its card names as ``parity``.

    Args:
        model: a system of :mod:`xmkern.models`, of the same sizes; what the other class lacks (heads of other tasks)
            stays as it is.
        state_dict: of the other library's model, under its names.

    Raises:
        ValueError: the system has no such class, or names or shapes do not fit; nothing has been changed then.
    """
    if not hasattr(model, "reference_names"):
        raise ValueError(f"model must be a system with a parity class, which {type(model).__name__} has not")
    state, own = renamed(state_dict, model), model.state_dict()
    lacks = getattr(model, "reference_lacks", ())
    missing = {name for name in own.keys() - state.keys() if not name.startswith(lacks)}
    unknown = state.keys() - own.keys()
    misfits = [
        f"{name} {list(state[name].shape)} for {list(own[name].shape)}"
        for name in own.keys() & state.keys()
        if _shape(state[name]) != _shape(own[name])
    ]
    if missing or unknown or misfits:
        raise ValueError(
            f"state_dict must fit {type(model).__name__}: it lacks {sorted(missing) or 'nothing'}, has besides "
            f"{sorted(unknown) or 'nothing'}, and of other shapes {sorted(misfits) or 'nothing'}"
        )
    model.load_state_dict({name: tensor.reshape(own[name].shape) for name, tensor in state.items()}, strict=False)


def _shape(tensor: Tensor) -> list[int]:
    """Axes of length 1 are no difference."""
    return [length for length in tensor.shape if length != 1]


def renamed(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Another library's tensors (weights, or their gradients) under the names of ``model``.

    Each name goes through all patterns of ``model.reference_names`` in turn; one that becomes empty is left out. What
    ``model.reference_transposed`` matches before that is the transpose of a linear layer's weight. Parts
    of a projection that the model keeps in one are joined: x.q.weight, x.k.weight, x.v.weight -> x.qkv.weight.
    """
    state = {}
    transposed = getattr(model, "reference_transposed", None)
    for name, tensor in state_dict.items():
        if transposed and re.search(transposed, name):
            tensor = tensor.T
        for pattern, replacement in model.reference_names:  # type: ignore[union-attr]
            name = re.sub(pattern, replacement, name)
        if name:
            state[name] = tensor
    for name in model.state_dict():
        for whole, parts in _JOINED.items():
            stem, found, kind = name.rpartition(f".{whole}.")
            names = [f"{stem}.{part}.{kind}" for part in parts]
            if found and name not in state and all(part in state for part in names):
                state[name] = torch.cat([state.pop(part) for part in names])
    return state
