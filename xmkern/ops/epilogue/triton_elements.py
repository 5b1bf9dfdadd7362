"""The Triton kernels of gates and activations: see triton_kernels.py for the form of their arguments."""

# ruff: noqa: RET505 -- Triton wants what is known when it compiles in both branches.
import triton
import triton.language as tl

from xmkern.ops.epilogue.triton_kernels import load_rows, shifted, store_rows


@triton.jit
def tanh(x):
    """A polynomial near 0, where the quotient of powers would cancel."""
    square = x * x
    power = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - power) / (1.0 + power)
    near = -5.70498872745e-3 * square + 2.06390887954e-2
    near = near * square - 5.37397155531e-2
    near = near * square + 1.33314422036e-1
    near = near * square - 3.33332819422e-1
    return tl.where(tl.abs(x) < 0.625, x + x * square * near, tl.where(x < 0.0, -far, far))


@triton.jit
def opened(gate, ACTIVATION: tl.constexpr):
    """-> what a gate lets through, and its slope"""
    if ACTIVATION == "tanh":
        y = tanh(gate)
        return y, 1.0 - y * y
    elif ACTIVATION == "sigmoid":
        y = tl.sigmoid(gate)
        return y, y * (1.0 - y)
    else:
        return gate, gate * 0.0 + 1.0


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """-> the activation, and its slope"""
    if ACTIVATION == "relu":
        return tl.where(x > 0.0, x, tl.where(x == x, 0.0, x)), tl.where(x > 0.0, 1.0, 0.0)
    elif ACTIVATION == "gelu":
        share = 0.5 + 0.5 * tl.erf(x * 0.70710678118654752)
        return x * share, share + x * tl.exp(-0.5 * x * x) * 0.39894228040143268
    elif ACTIVATION == "gelu_tanh":
        share = tl.sigmoid(1.5957691216057308 * x * (1.0 + 0.044715 * x * x))
        dz = 1.5957691216057308 * (1.0 + 0.134145 * x * x)
        return x * share, share + x * share * (1.0 - share) * dz
    elif ACTIVATION == "quick_gelu":
        share = tl.sigmoid(1.702 * x)
        return x * share, share + x * share * (1.0 - share) * 1.702
    else:
        share = tl.sigmoid(x)
        return x * share, share + x * share * (1.0 - share)


@triton.jit
def gate_of(gate, column, there, ONE: tl.constexpr):
    if ONE:
        return tl.load(gate[0] + column * 0).to(tl.float32)
    else:
        return tl.load(gate[0] + column, mask=there, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["rows"])
def gate_kernel(
    x, residual, gates, out, gate, bias, rows, columns,
    ACTIVATION: tl.constexpr, ONE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """gates: of elements, or (); gate: of columns, or of all (ONE), or ()."""
    parts = tl.cdiv(columns, COLUMNS)
    row = (tl.program_id(0) // parts * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tl.program_id(0) % parts * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    there = column < columns
    here = there & (row < rows)
    branch = shifted(load_rows(x, row, column, here), bias, column, there)
    if len(gates) > 0:
        branch *= opened(load_rows(gates, row, column, here), ACTIVATION)[0]
    if len(gate) > 0:
        branch *= opened(gate_of(gate, column, there, ONE), ACTIVATION)[0]
    store_rows(out, row, column, here, load_rows(residual, row, column, here) + branch)


@triton.jit(do_not_specialize=["rows", "span"])
def gate_backward_kernel(
    grad, x, gates, grad_x, grad_gates, gate, bias, sums, rows, columns, span,
    ACTIVATION: tl.constexpr, ONE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    COUNT: tl.constexpr = len(gate) + len(bias)
    parts = tl.cdiv(columns, COLUMNS)
    block = tl.program_id(0) // parts
    column = (tl.program_id(0) % parts * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    there = column < columns
    of_bias = tl.zeros((ROWS, COLUMNS), tl.float32)
    of_gate = of_bias
    for first in tl.range(block * span, tl.minimum((block + 1) * span, rows), ROWS):
        row = (first + tl.arange(0, ROWS))[:, None]
        here = there & (row < rows)
        slope = load_rows(grad, row, column, here)
        branch = shifted(load_rows(x, row, column, here), bias, column, there)
        if len(gates) > 0:
            y, dy = opened(load_rows(gates, row, column, here), ACTIVATION)
            store_rows(grad_gates, row, column, here, slope * branch * dy)
            slope *= y
        if len(gate) > 0:
            y, dy = opened(gate_of(gate, column, there, ONE), ACTIVATION)
            of_gate += slope * branch * dy
            slope *= y
        of_bias += slope
        store_rows(grad_x, row, column, here, slope)
    if len(gate) > 0:
        store_part(sums, 0, COUNT, block, of_gate, column, columns)
    if len(bias) > 0:
        store_part(sums, COUNT - 1, COUNT, block, of_bias, column, columns)


@triton.jit
def store_part(sums, index: tl.constexpr, count: tl.constexpr, block, acc, column, columns):
    place = sums + (block.to(tl.int64) * count + index) * columns + column
    tl.store(place, tl.sum(acc, 0)[None, :], mask=column < columns)


@triton.jit(do_not_specialize=["rows"])
def activation_kernel(
    x, out, bias, rows, columns,
    ACTIVATION: tl.constexpr, GATED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """columns: of the result."""
    parts = tl.cdiv(columns, COLUMNS)
    row = (tl.program_id(0) // parts * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tl.program_id(0) % parts * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    there = column < columns
    here = there & (row < rows)
    value = shifted(load_rows(x, row, column, here), bias, column, there)
    if GATED:
        gate = shifted(load_rows(x, row, columns + column, here), bias, columns + column, there)
        value *= activated(gate, ACTIVATION)[0]
    else:
        value = activated(value, ACTIVATION)[0]
    store_rows(out, row, column, here, value)


@triton.jit(do_not_specialize=["rows", "span"])
def activation_backward_kernel(
    grad, x, grad_x, bias, sums, rows, columns, span,
    ACTIVATION: tl.constexpr, GATED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    COUNT: tl.constexpr = 2 if GATED else 1
    parts = tl.cdiv(columns, COLUMNS)
    block = tl.program_id(0) // parts
    column = (tl.program_id(0) % parts * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    there = column < columns
    of_value = tl.zeros((ROWS, COLUMNS), tl.float32)
    of_gate = of_value
    for first in tl.range(block * span, tl.minimum((block + 1) * span, rows), ROWS):
        row = (first + tl.arange(0, ROWS))[:, None]
        here = there & (row < rows)
        slope = load_rows(grad, row, column, here)
        value = shifted(load_rows(x, row, column, here), bias, column, there)
        if GATED:
            gate = shifted(load_rows(x, row, columns + column, here), bias, columns + column, there)
            y, dy = activated(gate, ACTIVATION)
            to_gate = slope * value * dy
            store_rows(grad_x, row, columns + column, here, to_gate)
            of_gate += tl.where(here, to_gate, 0.0)
            slope *= y
        else:
            slope *= activated(value, ACTIVATION)[1]
        of_value += tl.where(here, slope, 0.0)
        store_rows(grad_x, row, column, here, slope)
    if len(bias) > 0:
        store_part(sums, 0, COUNT, block, of_value, column, columns)
        if GATED:
            store_part(sums, 1, COUNT, block, of_gate, column, columns)
