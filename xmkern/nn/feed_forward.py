"""What stands between two attentions: the feed-forward layer, and how a branch joins its residual."""

from typing import Any

from torch import Tensor, nn

from xmkern.functional import add_layer_norm, bias_activation, gated_activation, linear
from xmkern.nn.linear import Linear

# By name: the activation, and whether it gates (the hidden layer is then made twice as wide).
_ACTIVATIONS: dict[str, tuple[Any, bool]] = {
    **{name: (name, False) for name in ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu")},
    "geglu": ("gelu", True),
    "swiglu": ("silu", True),
}


class FeedForward(nn.Module):
    """down(activation(up(x))) (Vaswani et al., 2017), with bias and activation in one pass over memory.

    Args:
        dim: E of the input and the output.
        hidden: width between the two; 4 E by default.
        activation: "gelu", "gelu_tanh", "quick_gelu", "relu", "silu"; or "geglu", "swiglu" (Shazeer, 2020).
    """

    def __init__(self, dim: int, hidden: int | None = None, activation: str = "gelu", *, bias: bool = True) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, not {activation!r}")
        hidden = 4 * dim if hidden is None else hidden
        self.activation, gated = _ACTIVATIONS[activation]
        self.up = Linear(dim, 2 * hidden if gated else hidden, bias=bias)
        self.down = Linear(hidden, dim, bias=bias)

    def inner(self, x: Tensor) -> Tensor:
        """[..., E] -> [..., hidden], what ``down`` projects."""
        call = bias_activation if self.up.out_features == self.down.in_features else gated_activation
        return call(linear(x, self.up.weight), self.up.bias, self.activation)

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] -> [..., E]"""
        return self.down(self.inner(x))


def add_norm(x: Tensor, layer: nn.Linear, residual: Tensor, norm: nn.LayerNorm, dropout_p: float) -> Tensor:
    """norm(residual + dropout(layer(x))): all that follows the product in one pass."""
    return add_layer_norm(
        linear(x, layer.weight), residual, norm.weight, norm.bias, linear_bias=layer.bias, dropout_p=dropout_p,
        eps=norm.eps,
    )  # fmt: skip
