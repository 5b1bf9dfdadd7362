"""Convolutions in half precision, where torch is slower in it than in float32."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmkern.ops.gradient import graded
from xmkern.ops.linear import product_dtype, torch_crawls


class _Widened(torch.autograd.Function):
    """A convolution in float32, rounded to ``dtype``; what is kept for the gradients are no copies."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, *how: Any) -> Tensor:
        wide = None if bias is None else bias.float()
        return torch.convolution(x.float(), weight.float(), wide, *how).to(dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, _, *ctx.how = inputs
        ctx.bias = None if bias is None else bias.dtype
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        biases = None if ctx.bias is None else weight.shape[:1]
        grads = torch.ops.aten.convolution_backward(grad.float(), x.float(), weight.float(), biases, *ctx.how, wanted)
        dtypes = x.dtype, weight.dtype, ctx.bias
        rounded = (g.to(dtype) if asked else None for g, dtype, asked in zip(grads, dtypes, wanted, strict=True))
        return *rounded, *(None,) * (1 + len(ctx.how))


def convolve(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, input: Tensor) -> Tensor:
    """The layer's forward pass; in float32 where torch would take two to fifty times as long in the dtype asked
    for."""
    if not (input.is_cpu and torch_crawls(dtype := product_dtype(input))):
        function: Callable[..., Tensor] = layer._conv_forward
        return function(input, layer.weight, layer.bias)
    zeros, padding = (0,) * len(layer.kernel_size), layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        input, padding = F.pad(input, layer._reversed_padding_repeated_twice, mode=mode), zeros
    batched = input if input.dim() > len(zeros) + 1 else input.unsqueeze(0)
    how = layer.stride, padding, layer.dilation, False, zeros, layer.groups
    run = _Widened.apply if graded(batched, layer.weight, layer.bias) else _Widened.forward
    with torch.autocast("cpu", enabled=False):
        out: Tensor = run(batched, layer.weight, layer.bias, dtype, *how)
    return out if batched is input else out.squeeze(0)


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
