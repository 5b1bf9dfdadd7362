"""Launches the C++ kernels: makes the memory, passes addresses and strides."""

from typing import Any

import torch
from torch import Tensor

from xmkern import native

_VARIANCES = {"fixed": 0, "learned": 1, "learned_range": 2}
_MADE = {"epsilon": 1, "v": 2}  # targets that are neither given nor x0
_NOTHING = (0, 0)
_NO_TENSOR = {
    dtype: torch.empty(0, dtype=dtype) for dtype in native.DTYPES
}  # for what is not wanted: nobody writes to it
_LEAST_ROW = 256  # elements; a mask of shorter rows is written out


def refuses(x: Tensor, *args: object) -> str | None:
    if not x.is_cpu:
        return f"the tensors are on {x.device}"
    if x.dtype not in native.DTYPES:
        return f"the kernels take float32, bfloat16 and float16, not {x.dtype}"
    return native.why_missing()


def refuses_into(previous: Tensor, predicted: Tensor | None, sample: Tensor, *args: object) -> str | None:
    return refuses(sample)


def diffusion_step(sample: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    previous = _fresh(sample)
    original = torch.empty_like(previous) if args[-1] else None
    diffusion_step_into(previous, original, sample, *args)
    return previous, _NO_TENSOR[sample.dtype] if original is None else original


def step_at_once(
    sample: Tensor,
    model_output: Tensor,
    noise: Tensor | None,
    history: tuple[Tensor, ...],
    numbers: tuple[float, ...],
    seed: int | None,
    offset: int,
    variance: str,
    guided: bool,
    original: bool,
    out: tuple[Tensor, Tensor | None] | None,
) -> tuple[Tensor, Tensor | None] | None:
    made: tuple[Tensor, Tensor | None] | None = native.module().diffusion.step_at_once(
        sample, model_output, noise, history, numbers, seed, offset, _VARIANCES[variance], guided, original, out,
        torch.is_grad_enabled(), torch.get_num_threads(),
    )  # fmt: skip
    return made


def q_sample_at_once(
    x0: Tensor, t: Tensor, alphas_cumprod: Tensor, noise: Tensor | None, seed: int | None, offset: int, target: str
) -> tuple[Tensor, Tensor | None] | None:
    made: tuple[Tensor, Tensor | None] | None = native.module().diffusion.q_sample_at_once(
        x0, t, alphas_cumprod, noise, seed, offset, _MADE.get(target, 0),
        torch.is_grad_enabled(), torch.get_num_threads(),
    )  # fmt: skip
    return made


def normals_at_once(out: Tensor, seed: int, offset: int) -> bool | None:
    made: bool = native.module().diffusion.normals_at_once(out, seed, offset, torch.get_num_threads())
    return made or None


def diffusion_step_into(
    previous: Tensor,
    predicted: Tensor | None,
    sample: Tensor,
    model_output: Tensor,
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
    B = sample.shape[0]  # not len(sample), which is Python of torch's and takes three times as long
    if B == 0:
        return
    elements = row = sample.numel() // B
    kept: list[Tensor] = []  # copies live until the kernel has run
    output = _operand(model_output, elements if variance == "fixed" else 2 * elements, kept)
    conditional = learned = masks = _NOTHING
    if model_output.shape[0] != B:
        conditional = (output[0] + B * output[1] * sample.element_size(), output[1])
    if variance != "fixed":
        at, stride = conditional if conditional[0] else output
        learned = (at + elements * sample.element_size(), stride)
    if mask is not None:
        of_channel = elements // mask.size(1) if mask.dim() > 1 and elements else 0
        if of_channel >= _LEAST_ROW and mask.stride(1) == 0 and mask[0, 0].is_contiguous():
            row, masks = of_channel, (mask.data_ptr(), mask.stride(0))
        else:
            masks = _operand(mask, elements, kept)
    native.module().diffusion.step(
        native.DTYPES[sample.dtype],
        B,
        elements,
        row,
        (
            _operand(sample, elements, kept), output, conditional, learned,
            _NOTHING if known is None else _operand(known, elements, kept), masks,
            _NOTHING if history1 is None else _operand(history1, elements, kept),
            _NOTHING if history2 is None else _operand(history2, elements, kept),
            _NOTHING if history3 is None else _operand(history3, elements, kept),
            _NOTHING if noise is None else _operand(noise, elements, kept),
        ),
        tuple(numbers),  # a list if it comes by the dispatcher
        0 if noise is None else native.DTYPES[noise.dtype],
        seed is not None,
        seed or 0,
        offset,
        _VARIANCES[variance],
        previous.data_ptr(),
        0 if predicted is None else predicted.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip


def _operand(x: Tensor, elements: int, kept: list[Tensor]) -> tuple[int, int]:
    """Where it is, and the stride from sample to sample, whose elements are contiguous."""
    if x.is_contiguous():
        return x.data_ptr(), elements
    if not x[0].is_contiguous():
        x = x.contiguous()
        kept.append(x)
    return x.data_ptr(), x.stride(0)


def _fresh(x: Tensor) -> Tensor:
    """Memory for a contiguous tensor like x. To name the format takes torch half as long again."""
    if x.is_contiguous():
        return torch.empty_like(x)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_IDENTITY = (1.0, *(0.0,) * 15)


def dynamic_threshold(x0: Tensor, ratio: float, max_value: float) -> Tensor:
    """A step that keeps the original alone."""
    out = _fresh(x0)
    if out.numel() == 0:
        return out
    x0 = x0.contiguous()
    elements = x0.numel() // len(x0)
    native.module().diffusion.step(
        native.DTYPES[x0.dtype],
        *(len(x0), elements, elements),
        ((x0.data_ptr(), elements), *(_NOTHING,) * 9),
        (*_IDENTITY, max_value, ratio),
        *(0, False, 0, 0, 0, 0),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def q_sample(
    x0: Tensor, t: Tensor, alphas_cumprod: Tensor, noise: Tensor | None, seed: int | None, offset: int, target: str
) -> tuple[Tensor, Tensor]:
    noisy = _fresh(x0)
    written = target == "v" or (target == "epsilon" and noise is None)
    made = torch.empty_like(noisy) if written else _NO_TENSOR[x0.dtype]
    x, t, table = x0.contiguous(), t.contiguous(), alphas_cumprod.contiguous()
    z = noise if noise is None else noise.contiguous()
    B = x.shape[0]
    elements = x.numel() // max(B, 1)
    wrong = native.module().diffusion.q_sample(
        native.DTYPES[x.dtype],
        B,
        elements,
        (x.data_ptr(), elements),
        _NOTHING if z is None else (z.data_ptr(), elements),
        0 if z is None else native.DTYPES[z.dtype],
        z is None,
        seed or 0,
        offset,
        t.data_ptr(),
        t.dtype == torch.int64,
        table.data_ptr(),
        table.dtype == torch.float64,
        table.numel(),
        noisy.data_ptr(),
        made.data_ptr() if target == "v" else 0,
        made.data_ptr() if written and target != "v" else 0,
        torch.get_num_threads(),
    )
    if wrong >= 0:
        raise ValueError(f"t must be 0 to {len(table) - 1}, not {int(t[wrong])} as t[{wrong}] is")
    return noisy, made


def philox_normal(out: Tensor, seed: int, offset: int) -> None:
    native.module().diffusion.normals(
        out.data_ptr(), native.DTYPES[out.dtype], out.numel(), seed, offset, torch.get_num_threads()
    )
