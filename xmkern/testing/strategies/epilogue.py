"""Arguments of what follows a projection."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from xmkern.testing.strategies.layout import Inputs

_rows = st.one_of(st.integers(0, 5), st.sampled_from([1, 40, 65, 200]))
_columns = st.one_of(st.integers(2, 20), st.sampled_from([1, 32, 63, 64, 65, 100, 320, 768, 1500]))
_dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


class _Drawn:
    """Tensors of one call: mostly of one dtype, all graded or none."""

    def __init__(self, draw: Callable[..., Any], halves: int = 1) -> None:
        self.draw = draw
        self.generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
        self.lead = (draw(_rows),) if draw(st.booleans()) else (draw(st.sampled_from([1, 2, 3])), draw(_rows))
        self.D = draw(_columns) * halves
        self.dtype, self.mixed = draw(_dtypes), draw(st.sampled_from([False, False, True]))
        self.graded = draw(st.booleans())

    def tensor(self, *shape: int) -> Tensor:
        dtype = self.draw(_dtypes) if self.mixed else self.dtype
        return torch.randn(shape, generator=self.generator).to(dtype)

    def rows(self) -> Tensor:
        return self.draw(_laid_out(self.tensor(*self.lead, self.D))).requires_grad_(self.graded)

    def vector(self) -> Tensor | None:
        if self.draw(st.booleans()):
            return None
        x = self.tensor(self.D)
        if self.draw(st.booleans()):
            x = torch.stack([x, x], 1)[:, 0]
        return x.requires_grad_(self.graded)

    def dropout_p(self) -> float:
        return self.draw(st.sampled_from([0.0, 0.0, 0.1, 0.7, 1.0]))


@st.composite
def add_layer_norm(draw: Callable[..., Any]) -> Inputs:
    """Rows of one number and of many, missing operands, mixed dtypes, all layouts; also of norms that are relaxed."""
    drawn = _Drawn(draw)
    return {
        "x": drawn.rows(),
        "residual": draw(st.sampled_from([None, drawn.rows()])),
        "weight": drawn.vector(),
        "bias": drawn.vector(),
        "linear_bias": drawn.vector(),
        "dropout_p": drawn.dropout_p(),
        "eps": draw(st.sampled_from([1e-5, 1e-2])),
        "pb_relax": draw(st.booleans()),
        "return_sum": draw(st.booleans()),
    }


@st.composite
def add_rms_norm(draw: Callable[..., Any]) -> Inputs:
    inputs = draw(add_layer_norm())
    del inputs["bias"], inputs["pb_relax"]
    return inputs


@st.composite
def sandwich_layer_norm(draw: Callable[..., Any]) -> Inputs:
    drawn = _Drawn(draw)
    following = draw(st.booleans())
    return {
        "x": drawn.rows(),
        "residual": drawn.rows(),
        "weight": drawn.vector(),
        "bias": drawn.vector(),
        "linear_bias": drawn.vector(),
        "dropout_p": drawn.dropout_p(),
        "pb_relax": draw(st.booleans()),
        "next_norm": following,
        "next_weight": drawn.vector() if following else None,
        "next_bias": drawn.vector() if following else None,
    }


@st.composite
def bias_dropout_add(draw: Callable[..., Any]) -> Inputs:
    drawn = _Drawn(draw)
    return {"x": drawn.rows(), "residual": drawn.rows(), "bias": drawn.vector(), "dropout_p": drawn.dropout_p()}


@st.composite
def gated_residual(draw: Callable[..., Any]) -> Inputs:
    """Gates of all forms and sizes, near 0 and far from it."""
    drawn = _Drawn(draw)
    form = draw(st.sampled_from(["none", "number", "one", "vector", "elements"]))
    size = draw(st.sampled_from([1e-3, 1.0, 20.0]))
    gate = None
    if form == "elements":
        gate = (size * drawn.rows().detach()).requires_grad_(drawn.graded)
    elif form != "none":
        shape = {"number": (), "one": (1,), "vector": (drawn.D,)}[form]
        gate = (size * drawn.tensor(*shape)).requires_grad_(drawn.graded)
    return {
        "x": drawn.rows(),
        "residual": drawn.rows(),
        "gate": gate,
        "bias": drawn.vector(),
        "activation": None if gate is None else draw(st.sampled_from([None, "tanh", "sigmoid"])),
    }


@st.composite
def bias_activation(draw: Callable[..., Any], halves: int = 1) -> Inputs:
    drawn = _Drawn(draw, halves)
    return {
        "x": drawn.rows(),
        "bias": drawn.vector(),
        "activation": draw(st.sampled_from(["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"])),
    }


def gated_activation() -> st.SearchStrategy[Inputs]:
    return bias_activation(halves=2)


@st.composite
def _laid_out(draw: Callable[..., Any], x: Tensor) -> Tensor:
    """[..., D]: the same values, as projections, slices and expansions lay them out."""
    layout = draw(st.sampled_from(["contiguous", "contiguous", "transposed", "sliced", "outside", "expanded"]))
    if layout == "outside":  # the columns are not dense
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "transposed" and x.dim() == 3:
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "sliced":
        wide = x.new_full((*x.shape[:-1], x.shape[-1] * 2 + 1), torch.nan)
        view = wide[..., 1 : 1 + x.shape[-1]]
        view.copy_(x)
        return view
    if layout == "expanded" and x.shape[0]:
        return x[:1].expand_as(x)
    return x
