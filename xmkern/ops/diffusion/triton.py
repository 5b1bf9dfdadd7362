"""Launches the Triton kernels: makes the memory, passes strides. Triton is imported by the first call.

A step is one launch, or two where a rescaled guidance or dynamic thresholding has to look at whole samples first.
"""

from typing import Any

import torch
from torch import Tensor

from xmkern.ops import gpu, tuning
from xmkern.ops.diffusion.reference import Numbers
from xmkern.ops.gpu import cdiv, power_of_two

_VARIANCES = {"fixed": 0, "learned": 1, "learned_range": 2}
_NONE, _GIVEN, _DRAWN = 0, 1, 2
_HALF_LOG2_E = 0.72134752044448170
_FAR = 1 << 30  # elements of a sample are counted in 32 bits


def refuses(x: Tensor, *args: object) -> str | None:
    if x.dim() and x.numel() >= _FAR * max(len(x), 1):
        return f"a sample has {_FAR} or more elements"
    return gpu.refuses(x)


def refuses_into(previous: Tensor, predicted: Tensor | None, sample: Tensor, *args: object) -> str | None:
    return refuses(sample)


def diffusion_step(sample: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    previous = sample.new_empty(sample.shape)
    original = torch.empty_like(previous) if args[-1] else None
    diffusion_step_into(previous, original, sample, *args)
    return previous, sample.new_empty(0) if original is None else original


def diffusion_step_into(
    previous: Tensor | None,
    predicted: Tensor | None,
    sample: Tensor,
    model_output: Tensor | None,
    noise: Tensor | None,
    known: Tensor | None,
    mask: Tensor | None,
    history1: Tensor | None,
    history2: Tensor | None,
    history3: Tensor | None,
    numbers: tuple[float, ...],
    seed: int | None,
    offset: int,
    variance: str,
    original: bool,
) -> None:
    from xmkern.ops.diffusion import triton_kernels as kernels

    if sample.numel() == 0:
        return
    n = Numbers(*numbers)
    B = len(sample)
    elements = sample.numel() // B
    guided = model_output is not None and len(model_output) != B
    drawn = noise is None and seed is not None
    if drawn and n.churn and n.ratio >= 0:  # what the quantile is of has noise in it
        noise, drawn = sample.new_empty(sample.shape, dtype=torch.float32), False
        philox_normal(noise, seed or 0, offset)
    source = _DRAWN if drawn else _NONE if noise is None else _GIVEN
    low, high = (_HALF_LOG2_E * each for each in (n.log_low, n.log_high))
    passed = (*numbers[:12], (low + high) / 2, (high - low) / 2, *numbers[14:])
    x = _operand(sample)
    output = x if model_output is None else _operand(model_output)
    z = None if noise is None else _operand(noise)
    statistics = None
    dynamic = n.ratio >= 0
    with gpu.on(sample):
        if dynamic or n.rescale:
            statistics = sample.new_empty(B, 2, dtype=torch.float32)
            rank = max(n.ratio, 0.0) * (elements - 1)
            row = tuning.chosen("diffusion.statistics", gpu.chip_of(sample.device))
            _launch(
                kernels.statistics_kernel, B, x, output, z, statistics, passed, elements, B, int(rank),
                rank - int(rank), NOISE=_GIVEN if z is not None and n.churn else _NONE, GUIDED=guided,
                RESCALED=n.rescale != 0, DYNAMIC=dynamic, BLOCK=min(row["block"], power_of_two(elements)),
                num_warps=row["warps"],
            )  # fmt: skip
        in_row, masks = elements, None
        if mask is not None:
            if mask.dim() > 1 and mask.stride(1) == 0 and mask[0, 0].is_contiguous():
                in_row, masks = elements // mask.shape[1], (mask, mask.stride(0))
            else:
                masks = _operand(mask)
        history = tuple(_operand(h) for h in (history1, history2, history3) if h is not None)
        block, blocks, warps = _blocks(sample, elements, drawn)
        _launch(
            kernels.step_kernel, B * blocks, x, output, z, None if known is None else _operand(known), masks, history,
            statistics, previous, predicted, passed, seed or 0, offset, elements, B, in_row, blocks,
            WEIGHTS=len(history), NOISE=source, VARIANCE=_VARIANCES[variance], GUIDED=guided, MASKED=mask is not None,
            DYNAMIC=dynamic, ALIGNED=(offset | elements) % 16 == 0, BLOCK=block,
            num_warps=warps,
        )  # fmt: skip


_IDENTITY = (1.0, *(0.0,) * 15)


def dynamic_threshold(x0: Tensor, ratio: float, max_value: float) -> Tensor:
    """A step that keeps the original alone."""
    out = x0.new_empty(x0.shape)
    numbers = (*_IDENTITY, max_value, ratio)
    diffusion_step_into(None, out, x0, *(None,) * 7, numbers, None, 0, "fixed", True)
    return out


def q_sample(
    x0: Tensor, t: Tensor, alphas_cumprod: Tensor, noise: Tensor | None, seed: int | None, offset: int, target: str
) -> tuple[Tensor, Tensor]:
    from xmkern.ops.diffusion import triton_kernels as kernels

    noisy = x0.new_empty(x0.shape)
    written = target == "v" or (target == "epsilon" and noise is None)
    made = torch.empty_like(noisy) if written else x0.new_empty(0)
    if x0.numel() == 0:
        return noisy, made
    elements = x0.numel() // len(x0)
    block, blocks, warps = _blocks(x0, elements, noise is None)
    with gpu.on(x0):
        _launch(
            kernels.q_sample_kernel, len(x0) * blocks, x0.contiguous(), None if noise is None else noise.contiguous(),
            t.contiguous(), alphas_cumprod.contiguous(), noisy, made if target == "v" else None,
            made if written and target != "v" else None, seed or 0, offset, elements, len(alphas_cumprod), blocks,
            NOISE=_DRAWN if noise is None else _GIVEN, ALIGNED=(offset | elements) % 16 == 0, BLOCK=block,
            num_warps=warps,
        )  # fmt: skip
    return noisy, made


def philox_normal(out: Tensor, seed: int, offset: int) -> None:
    from xmkern.ops.diffusion import triton_kernels as kernels

    if out.numel() == 0:
        return
    block, blocks, warps = _blocks(out, out.numel(), True)
    with gpu.on(out):
        _launch(kernels.normal_kernel, blocks, out, seed, offset, out.numel(), BLOCK=block, num_warps=warps)


def _operand(x: Tensor) -> tuple[Tensor, int]:
    """The tensor, and the stride from sample to sample of contiguous elements."""
    if x.is_contiguous():
        return x, x.numel() // len(x)
    if not x[0].is_contiguous():
        x = x.contiguous()
    return x, x.stride(0)


def _blocks(x: Tensor, elements: int, drawn: bool) -> tuple[int, int, int]:
    """How many elements a program has, how many programs a sample, and the warps of one. What is drawn may begin within
    a tile."""
    row = tuning.chosen("diffusion.step", gpu.chip_of(x.device))
    elements += 63 if drawn else 0
    block = min(row["block"], max(64, power_of_two(elements)))
    return block, cdiv(elements, block), row["warps"]


def _launch(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
    gpu.launch(kernel, programs, *args, enable_fp_fusion=False, **constants)
