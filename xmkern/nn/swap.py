"""torch's layers for ours, in a model that stands."""

from collections import Counter

from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from xmkern.nn.attention import MultiheadAttention
from xmkern.nn.convolution import Conv1d, Conv2d, Conv3d
from xmkern.nn.linear import Linear
from xmkern.nn.transformer import TransformerDecoderLayer, TransformerEncoderLayer

_OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: Linear,
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Conv3d: Conv3d,
    nn.MultiheadAttention: MultiheadAttention,
    nn.TransformerDecoderLayer: TransformerDecoderLayer,
    nn.TransformerEncoderLayer: TransformerEncoderLayer,
}


def replace(module: nn.Module) -> dict[str, int]:
    """Makes every Linear, convolution, MultiheadAttention, TransformerEncoderLayer and TransformerDecoderLayer of torch
    in ``module``, and ``module`` itself, one of :mod:`xmkern.nn`, in place.

    The objects stay the same, with their parameters, buffers, hooks and state dict; what changes is their class. Those
    of a subclass are left alone, but for that of a parametrization. :func:`restore` undoes it.

    Returns:
        How many modules of which class were replaced.

    Raises:
        ValueError: there was none.
    """
    return _swap(module, _OURS, "of torch.nn")


def restore(module: nn.Module) -> dict[str, int]:
    """Undoes :func:`replace`: makes our layers torch's again. Returns and raises likewise."""
    return _swap(module, {ours: theirs for theirs, ours in _OURS.items()}, "of xmkern.nn")


def _swap(module: nn.Module, classes: dict[type[nn.Module], type[nn.Module]], whose: str) -> dict[str, int]:
    changed: Counter[str] = Counter()
    for each in module.modules():
        if (other := classes.get(type_before_parametrizations(each))) is not None:
            become(each, other)
            changed[other.__name__] += 1
    if not changed:
        names = ", ".join(cls.__name__ for cls in classes)
        raise ValueError(f"module: {type(module).__name__} has no layer {whose} to replace ({names})")
    return dict(changed)


def become(module: nn.Module, cls: type[nn.Module]) -> None:
    """Makes ``module`` one of ``cls``; what a parametrization has put on top, a class of the module's own, stays."""
    top = type(module)
    if is_parametrized(module):
        properties = {name: each for name, each in vars(top).items() if name not in ("__dict__", "__weakref__")}
        cls = type(top.__name__, (cls,), properties)
    module.__class__ = cls
