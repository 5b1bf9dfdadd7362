"""What follows a projection: norms by width, gates and activations by kind."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.launches import Launch, dtype_name
from xmkern._functional.epilogue import _ACTIVATIONS as ACTIVATIONS
from xmkern.ops.epilogue import triton as launcher

GATES = (None, "tanh", "sigmoid")


def launches(chip: int) -> Iterator[Launch]:
    for dtype in (torch.bfloat16, torch.float32):
        for D in (20, 320, 1024, 4096, 8192):
            for inner in (True, False):
                name = f"{'inner and outer norm' if inner else 'norm'} of {D}, {dtype_name(dtype)}"
                usual = D == 1024 and dtype == torch.bfloat16
                yield Launch(name, partial(norms, D, dtype, inner, 0.1 if inner else 0.0), usual)
        for dense in (True, False):
            for gate in GATES:
                name = f"{gate} gate of {'elements' if dense else 'columns'}, {dtype_name(dtype)}"
                yield Launch(name, partial(gates, dtype, gate, dense), usual=gate == "tanh" and dense)
        for activation in ACTIVATIONS:
            for gated in (True, False):
                name = f"{activation}{', gated' * gated}, {dtype_name(dtype)}"
                yield Launch(name, partial(activations, dtype, activation, gated), usual=activation == "gelu")


def norms(D: int, dtype: torch.dtype, inner: bool, dropout_p: float) -> None:
    x, vector = torch.empty(2, 100, D, dtype=dtype), torch.empty(D, dtype=dtype)
    seed = torch.tensor([1]) if dropout_p else None
    flags = (inner, True, inner, False, False)
    *_, moments = launcher.add_norm(x, x, vector, vector, vector, vector, vector, *flags, 1e-5, dropout_p, seed)
    kept, of_inner = (x, vector) if inner else (None, None)
    given = (x, kept, x, None if inner else x, kept, moments, vector, of_inner, of_inner, vector, vector)
    launcher.add_norm_backward(*given, inner, False, True, dropout_p, seed)


def gates(dtype: torch.dtype, gate: str | None, dense: bool) -> None:
    x, vector = torch.empty(2, 100, 1024, dtype=dtype), torch.empty(1024, dtype=dtype)
    opening = x if dense else vector
    launcher.gated_residual(x, x, opening, vector, gate)
    launcher.gated_residual_backward(x, x, opening, vector, gate)


def activations(dtype: torch.dtype, activation: str, gated: bool) -> None:
    x, out = torch.empty(2, 100, 2048, dtype=dtype), torch.empty(2, 100, 1024 if gated else 2048, dtype=dtype)
    bias = torch.empty(2048, dtype=dtype)
    launcher.bias_activation(x, bias, activation, gated)
    launcher.bias_activation_backward(out, x, bias, activation, gated)
