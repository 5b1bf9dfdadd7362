"""Arguments of sampling steps, of training noise, and of dynamic thresholding."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from xmkern._functional.diffusion_coefficients import DynamicThreshold, StepCoefficients
from xmkern.testing.strategies.layout import Inputs

_DTYPES = [torch.float32, torch.bfloat16, torch.float16]
_channels = st.sampled_from([1, 2, 3])
_rest = st.sampled_from([(), (1,), (7,), (64,), (5, 7), (16, 17), (23, 40), (2, 3, 4)])
_weights = st.floats(-1.5, 1.5).map(lambda x: round(x, 3))
_offsets = st.sampled_from([0, 0, 1, 64, 777, 2**33 + 5])


class _Drawn:
    """Tensors of one generator and dtype, laid out as they come, with other strides, or as a slice of channels."""

    def __init__(self, draw: Callable[..., Any]) -> None:
        self.draw = draw
        self.dtype = draw(st.sampled_from(_DTYPES))
        self.generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))

    def __call__(self, *shape: int) -> Tensor:
        layout = self.draw(st.sampled_from(["contiguous", "contiguous", "transposed", "sliced"]))
        if layout == "sliced" and len(shape) > 1:
            return self._normal(shape[0], shape[1] + 1, *shape[2:])[:, : shape[1]]
        if layout == "transposed" and len(shape) > 1:
            return self._normal(*shape[:-2], shape[-1], shape[-2]).mT
        return self._normal(*shape)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.dtype)


@st.composite
def diffusion_step(draw: Callable[..., Any]) -> Inputs:
    """Every prediction, variance, clipping, guidance, mask and history, with noise given or drawn."""
    tensor = _Drawn(draw)
    B, C, rest = draw(st.sampled_from([0, 1, 2, 5])), draw(_channels), draw(_rest)
    shape = (B, C, *rest)
    variance = draw(st.sampled_from([None, None, "learned_range", "learned"]))
    guided, masked = draw(st.booleans()), draw(st.booleans())
    histories = draw(st.integers(0, 3))
    wanted = st.one_of(st.just(0.0), _weights)
    coefficients = StepCoefficients(
        alpha=draw(st.sampled_from([1.0, 0.9, 0.3])),
        sigma=draw(st.sampled_from([0.4, 0.95, 2.0])),
        sample=draw(wanted),
        original=draw(_weights),
        epsilon=draw(wanted),
        noise=draw(wanted),
        history=tuple(draw(_weights) for _ in range(histories)),
        churn=draw(st.sampled_from([0.0, 0.0, 0.3])),
        known=draw(_weights) if masked else 0.0,
        known_noise=draw(wanted) if masked else 0.0,
        log_variances=(-6.0, draw(st.sampled_from([-5.9, -2.0]))),
    )
    output = tensor(2 * B if guided else B, C if variance is None else 2 * C, *rest)
    if variance == "learned":
        output = output.abs()
    noise: dict[str, Any] = {"seed": draw(st.integers(-(2**63), 2**64 - 1)), "offset": draw(_offsets)}
    if draw(st.booleans()):
        noise = {"noise": tensor(*shape)}
        if draw(st.booleans()):
            noise["noise"] = noise["noise"].float()
    inputs = {
        "sample": tensor(*shape),
        "model_output": output,
        "coefficients": coefficients,
        "history": [tensor(*shape) for _ in range(histories)],
        "prediction": draw(st.sampled_from(["epsilon", "sample", "v", "flow"])),
        "variance": variance,
        "clip": draw(st.sampled_from([None, 1.0, 0.3, DynamicThreshold(0.9, 1.5), DynamicThreshold(0.995, 100.0)])),
        "guidance": draw(st.sampled_from([0.0, 1.0, 7.5])) if guided else None,
        "guidance_rescale": draw(st.sampled_from([0.0, 0.7])) if guided and B * C > 0 and rest else 0.0,
        "return_original": True,
        **noise,
    }
    if masked:
        mask_shape = draw(st.sampled_from([shape, (B, 1, *rest), (1, 1, *rest), shape[1:]]))
        mask = torch.rand(mask_shape, generator=tensor.generator)
        inputs["mask"] = mask < 0.5 if draw(st.booleans()) else mask.to(tensor.dtype)
        inputs["known"] = tensor(draw(st.sampled_from([1, B])) if B else 1, C, *rest)
    return inputs


@st.composite
def dynamic_threshold(draw: Callable[..., Any]) -> Inputs:
    """Ties, ratios at both ends, numbers within [-1, 1] and far beyond."""
    tensor = _Drawn(draw)
    x0 = tensor(draw(st.sampled_from([0, 1, 3])), draw(_channels), *draw(_rest))
    kind = draw(st.sampled_from(["plain", "ties", "large"]))
    x0 = {"plain": x0, "ties": (2 * x0).round(), "large": 50 * x0}[kind]
    ratio = draw(st.sampled_from([0.0, 1.0, 0.5, 0.995, 0.3]))
    return {"x0": x0, "ratio": ratio, "max_value": draw(st.sampled_from([1.0, 1.7, 1e4]))}


@st.composite
def q_sample(draw: Callable[..., Any]) -> Inputs:
    tensor = _Drawn(draw)
    B, steps = draw(st.sampled_from([0, 1, 2, 5])), draw(st.sampled_from([1, 10, 1000]))
    shape = (B, draw(_channels), *draw(_rest))
    noise: dict[str, Any] = {"seed": draw(st.integers(0, 2**63)), "offset": draw(_offsets)}
    if draw(st.booleans()):
        noise = {"noise": tensor(*shape)}
    table = torch.linspace(0.9999, 0.002, steps, dtype=torch.float64)
    return {
        "x0": tensor(*shape),
        "t": torch.randint(0, steps, (B,), generator=tensor.generator).to(
            draw(st.sampled_from([torch.int64, torch.int32]))
        ),
        "alphas_cumprod": table if draw(st.booleans()) else table.float(),
        "target": draw(st.sampled_from(["epsilon", "sample", "v", None])),
        **noise,
    }
