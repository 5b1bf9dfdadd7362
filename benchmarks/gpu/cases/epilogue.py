"""What follows a projection: norms, activations and gates, all bound by memory."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import xmkern.functional as xf
from benchmarks.gpu.cases import BACKEND, Case, Inputs, compiles, normal, sized, spelled

SHAPE = (64, 512, 1024)


def cases() -> Iterator[Case]:
    for dtype in (torch.bfloat16, torch.float32):
        yield norm(dtype)
        yield activation(dtype)
        yield gate(dtype)


def _case(
    name: str,
    dtype: torch.dtype,
    parameters: tuple[str, ...],
    ours: Callable[..., Any],
    eager: Any,
    moved: tuple[int, int],
) -> Case:
    """parameters: of columns; moved: how many times x is read or written, in a forward pass and in both."""
    dense = [k for k in ("x", "residual", "gate") if k not in parameters and (k == "x" or k in name)]

    def inputs(size: str) -> Inputs:
        B, L, D = sized(SHAPE, size, (3, 37, 200))
        return {k: normal(B, L, D, dtype=dtype) for k in dense} | {k: normal(D, dtype=dtype) for k in parameters}

    forward, both = moved
    elements = SHAPE[0] * SHAPE[1] * SHAPE[2]
    return Case(
        name, spelled(SHAPE), dtype, inputs, {"xmkern": ours, "eager": eager, **compiles(eager)},
        lambda **given: ours(**given, backend="reference"),
        bytes=float(forward * elements * dtype.itemsize), backward=both / forward,
    )  # fmt: skip


def norm(dtype: torch.dtype) -> Case:
    def ours(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, backend: str = BACKEND) -> Any:
        return xf.add_layer_norm(x, residual, weight, bias, return_sum=True, backend=backend)

    def eager(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Any:
        total = x + residual
        return F.layer_norm(total, total.shape[-1:], weight, bias), total

    return _case("norm of x + residual", dtype, ("weight", "bias"), ours, eager, (4, 9))


def activation(dtype: torch.dtype) -> Case:
    def ours(x: Tensor, bias: Tensor, backend: str = BACKEND) -> Any:
        return xf.bias_activation(x, bias, "gelu", backend=backend)

    def eager(x: Tensor, bias: Tensor) -> Any:
        return F.gelu(x + bias)

    return _case("GELU of x + bias", dtype, ("bias",), ours, eager, (2, 5))


def gate(dtype: torch.dtype) -> Case:
    def ours(x: Tensor, residual: Tensor, gate: Tensor, backend: str = BACKEND) -> Any:
        return xf.gated_residual(x, residual, gate, activation="sigmoid", backend=backend)

    def eager(x: Tensor, residual: Tensor, gate: Tensor) -> Any:
        return residual + torch.sigmoid(gate) * x

    return _case("residual and gate of elements", dtype, (), ours, eager, (4, 9))
