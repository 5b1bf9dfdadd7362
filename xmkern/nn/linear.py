"""The projections of every layer here, and when what follows one may be fused with it."""

from typing import Any

from torch import Tensor, nn

from xmkern.functional import linear


class Linear(nn.Linear):
    """:class:`torch.nn.Linear`, with its constructor and state dict; see :func:`xmkern.functional.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


_FORWARDS = (Linear.forward, nn.Linear.forward, nn.LayerNorm.forward)


def is_heard(layer: Any) -> bool:
    """Whether somebody listens to a layer or has wrapped its forward, so that it must be called."""
    own = layer.__dict__
    return bool(
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own
    )


def is_plain(layer: Any) -> bool:
    """Whether the parameters of a Linear or a LayerNorm say all.

    An adapter (LoRA) has a forward of its own; weight_norm and prune make the weight in a hook, and a parametrization
    when it is read.
    """
    return type(layer).forward in _FORWARDS and not is_heard(layer)


def product(layer: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """layer(x) = y + b as y, b: for what adds the bias in the pass over memory that follows. A layer that is not plain
    has added it itself."""
    return (linear(x, layer.weight), layer.bias) if is_plain(layer) else (layer(x), None)
