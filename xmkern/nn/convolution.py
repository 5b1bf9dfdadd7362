"""Convolutions in half precision, where torch is slower in it than in float32."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xmkern.ops.linear import product_dtype, torch_crawls


def convolve(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, input: Tensor) -> Tensor:
    """The layer's forward pass; in float32 where torch would take two to fifty times as long in the dtype asked
    for."""
    function: Callable[..., Tensor] = layer._conv_forward
    if not (input.is_cpu and torch_crawls(dtype := product_dtype(input))):
        return function(input, layer.weight, layer.bias)
    with torch.autocast("cpu", enabled=False):
        bias = None if layer.bias is None else layer.bias.float()
        return function(input.float(), layer.weight.float(), bias).to(dtype)


class Conv1d(nn.Conv1d):
    """:class:`torch.nn.Conv1d`, with its constructor and state dict. On the CPU, half precision in which torch is
    slower on this processor is computed in float32 and rounded once."""

    def forward(self, input: Tensor) -> Tensor:
        return convolve(self, input)


class Conv2d(nn.Conv2d):
    """:class:`torch.nn.Conv2d`, as :class:`Conv1d` is torch's."""

    def forward(self, input: Tensor) -> Tensor:
        return convolve(self, input)


class Conv3d(nn.Conv3d):
    """:class:`torch.nn.Conv3d`, as :class:`Conv1d` is torch's."""

    def forward(self, input: Tensor) -> Tensor:
        return convolve(self, input)
