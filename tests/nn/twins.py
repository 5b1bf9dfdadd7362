"""Ours and torch's module with the same weights, compared in values and in the gradients of inputs and parameters."""

import warnings

import torch
from torch.func import functional_call

from xmkern.testing import assert_matches_reference


def twins(ours, theirs, *args, **kwargs):
    """A module of each class, with the same parameters, none of them zero."""
    pair = ours(*args, **kwargs), theirs(*args, **kwargs)
    with torch.no_grad():
        for parameter in pair[0].parameters():
            parameter.uniform_(-0.7, 0.7)
    pair[1].load_state_dict(pair[0].state_dict())
    return pair


def assert_twins_agree(ours, theirs, inputs, same=None):
    """By the rule of twice eager PyTorch's own error; ``same``: argument -> name of the input that it is.

    Parameters and inputs that require a gradient come as one vector, so that their gradient is one: that of a key
    alone may be all rounding.
    """
    parameters = dict(ours.named_parameters())
    parts = parameters | {name: x for name, x in inputs.items() if isinstance(x, torch.Tensor) and x.requires_grad}
    vector = torch.cat([part.detach().flatten() for part in parts.values()]).requires_grad_()
    rest = {name: x for name, x in inputs.items() if name not in parts}

    def run(module):
        def call(vector, **rest):
            pieces = vector.split([part.numel() for part in parts.values()])
            given = {name: piece.view(parts[name].shape) for name, piece in zip(parts, pieces, strict=True)}
            weights = {name: given.pop(name) for name in parameters}
            given |= rest
            given |= {argument: given[name] for argument, name in (same or {}).items()}
            out = functional_call(module, weights, kwargs=given)
            return [x for x in out if x is not None] if isinstance(out, tuple) else out

        return call

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Support for mismatched")
        assert_matches_reference(run(ours), {"vector": vector, **rest}, reference=run(theirs))
