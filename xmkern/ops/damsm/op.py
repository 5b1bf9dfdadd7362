"""The operators of matching words and regions: schemas, fakes, backends, and the gradient."""

from typing import Any

import torch
from torch import Tensor

from xmkern.ops.damsm import cpu, reference
from xmkern.ops.dtype import wide_dtype
from xmkern.ops.gradient import run_backward
from xmkern.ops.registry import Backend, Op


def _fake(words: Tensor, regions: Tensor, lengths: Tensor, gamma1: float) -> tuple[Tensor, Tensor]:
    shape = (words.shape[0], regions.shape[0], words.shape[1])
    cosines = words.new_empty(shape, dtype=wide_dtype(words.dtype))
    return cosines, torch.empty_like(cosines)


def _fake_backward(grad_cosines: Tensor, words: Tensor, regions: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return words.new_empty(words.shape), regions.new_empty(regions.shape)


def _sample() -> tuple[Any, ...]:
    return torch.randn(3, 5, 20), torch.randn(4, 7, 20), torch.tensor([5, 2, 1]), 5.0


def _sample_backward() -> tuple[Any, ...]:
    words, regions, lengths, gamma1 = _sample()
    cosines, norms = reference.word_region_cosines(words, regions, lengths, gamma1)
    return torch.randn_like(cosines), words, regions, lengths, cosines, norms, gamma1


cosines_forward = Op(
    "word_region_cosines(Tensor words, Tensor regions, Tensor lengths, float gamma1) -> (Tensor, Tensor)",
    backends=[
        Backend("cpu", cpu.word_region_cosines, cpu.refuses),
        Backend("reference", reference.word_region_cosines),
    ],
    fake=_fake,
    sample=_sample,
)

cosines_backward = Op(
    "word_region_cosines_backward(Tensor grad_cosines, Tensor words, Tensor regions, Tensor lengths, Tensor cosines, "
    "Tensor norms, float gamma1) -> (Tensor, Tensor)",
    backends=[
        Backend("cpu", cpu.word_region_cosines_backward, lambda grad_cosines, *args: cpu.refuses(*args)),
        Backend("reference", reference.word_region_cosines_backward),
    ],
    fake=_fake_backward,
    sample=_sample_backward,
)


class _Cosines(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(words: Tensor, regions: Tensor, lengths: Tensor, gamma1: float, backend: str) -> tuple[Tensor, Tensor]:
        return cosines_forward.overload(words, regions, lengths, gamma1, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        words, regions, lengths, ctx.gamma1, ctx.backend = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(words, regions, lengths, *output)

    @staticmethod
    def backward(ctx: Any, grad_cosines: Tensor, grad_norms: Tensor) -> tuple[Tensor | None, ...]:
        args = (grad_cosines, *ctx.saved_tensors, ctx.gamma1, ctx.backend)
        grad_words, grad_regions = run_backward(cosines_backward, *args, dispatched=True, what="damsm")
        return grad_words, grad_regions, None, None, None


def word_region_cosines(
    words: Tensor, regions: Tensor, lengths: Tensor, gamma1: float, backend: str = "auto"
) -> Tensor:
    """The operator with its gradient -> the cosine [N, M, T] of each word and its context in each image; 0 where a
    caption is over."""
    cosines, _ = _Cosines.apply(words, regions, lengths, gamma1, backend)
    return cosines
