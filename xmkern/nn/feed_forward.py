"""What stands between two attentions: the feed-forward layer, and how a branch joins its residual."""

from typing import Any, Literal, overload

from torch import Tensor, nn

from xmkern.functional import add_layer_norm, bias_activation, bias_dropout_add, gated_activation
from xmkern.nn.linear import Linear, is_plain, product

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
        self.activation, self.gated = _ACTIVATIONS[activation]
        self.up = Linear(dim, 2 * hidden if self.gated else hidden, bias=bias)
        self.down = Linear(hidden, dim, bias=bias)

    def inner(self, x: Tensor) -> Tensor:
        """[..., E] -> [..., hidden], what ``down`` projects."""
        call = gated_activation if self.gated else bias_activation
        return call(*product(self.up, x), self.activation)

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] -> [..., E]"""
        return self.down(self.inner(x))


@overload
def add_norm(
    x: Tensor, layer: Any, residual: Tensor, norm: Any, dropout_p: float, *, return_sum: Literal[False] = False
) -> Tensor: ...
@overload
def add_norm(
    x: Tensor, layer: Any, residual: Tensor, norm: Any, dropout_p: float, *, return_sum: Literal[True]
) -> tuple[Tensor, Tensor]: ...
def add_norm(
    x: Tensor, layer: Any, residual: Tensor, norm: Any, dropout_p: float, *, return_sum: Any = False
) -> Tensor | tuple[Tensor, Tensor]:
    """norm(residual + dropout(layer(x))), and the sum if ``return_sum``: all that follows the product in one pass."""
    branch, bias = product(layer, x)
    if is_plain(norm):
        return add_layer_norm(
            branch, residual, norm.weight, norm.bias, linear_bias=bias, dropout_p=dropout_p, eps=norm.eps,
            return_sum=return_sum,
        )  # fmt: skip
    total = bias_dropout_add(branch, residual, bias, dropout_p=dropout_p)
    return (norm(total), total) if return_sum else norm(total)
