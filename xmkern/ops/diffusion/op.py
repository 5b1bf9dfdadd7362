"""The operators of diffusion: schemas, fakes, backends.

They have no gradient of their own: where one is asked for, or a transform of torch.func is at work, the reference
serves the call, which autograd differentiates as often as it likes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xmkern.ops.diffusion import cpu, reference, triton
from xmkern.ops.diffusion.reference import Numbers
from xmkern.ops.gradient import graded, run
from xmkern.ops.registry import Backend, Op, past_checks, unobserved

_STEP = (
    "Tensor sample, Tensor model_output, Tensor? noise, Tensor? known, Tensor? mask, Tensor? history1, "
    "Tensor? history2, Tensor? history3, float[] numbers, int? seed, int offset, str variance, bool original"
)


def _backends(name: str) -> list[Backend]:
    fast = []
    for kind, own in {"cpu": cpu, "triton": triton}.items():
        refuses = own.refuses_into if name == "diffusion_step_into" else own.refuses
        fast.append(Backend(kind, getattr(own, name), refuses))
    return [*fast, Backend("reference", getattr(reference, name))]


def _step_sample() -> tuple[Any, ...]:
    sample, output = torch.randn(2, 3, 5, 4), torch.randn(4, 6, 5, 4)
    mask = (torch.rand(2, 1, 5, 4) < 0.5).float().expand(2, 3, 5, 4)
    numbers = Numbers(
        from_sample=1.5, from_output=-1.1, sample=0.3, original=0.6, output=0.1, noise=0.2, churn=0.0,
        history1=0.4, history2=-0.2, history3=0.0, known=0.9, known_noise=0.4, log_low=-5.0, log_high=-4.0,
        guidance=3.0, rescale=0.7, clip=1.5, ratio=0.9,
    )  # fmt: skip
    history = torch.randn_like(sample), torch.randn_like(sample), None
    return sample, output, None, torch.randn_like(sample), mask, *history, tuple(numbers), 7, 3, "learned_range", True


def _step_fake(sample: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    previous = sample.new_empty(sample.shape)
    return previous, torch.empty_like(previous) if rest[-1] else sample.new_empty(0)


def _step_into_sample() -> tuple[Any, ...]:
    args = _step_sample()
    return torch.empty_like(args[0]), torch.empty_like(args[0]), *args


def _q_sample_sample() -> tuple[Any, ...]:
    return torch.randn(3, 2, 5), torch.tensor([0, 9, 4]), torch.linspace(0.99, 0.01, 10), None, 5, 2, "epsilon"


def _q_sample_fake(x0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    noise, target = rest[2], rest[-1]
    written = target == "v" or (target == "epsilon" and noise is None)
    noisy = x0.new_empty(x0.shape)
    return noisy, torch.empty_like(noisy) if written else x0.new_empty(0)


step_forward = Op(
    f"diffusion_step({_STEP}) -> (Tensor, Tensor)",
    backends=_backends("diffusion_step"),
    fake=_step_fake,
    sample=_step_sample,
)

step_into = Op(
    f"diffusion_step_into(Tensor(a!) previous, Tensor(b!)? predicted, {_STEP}) -> ()",
    backends=_backends("diffusion_step_into"),
    fake=lambda *args: None,
    sample=_step_into_sample,
)

threshold_forward = Op(
    "dynamic_threshold(Tensor x0, float ratio, float max_value) -> Tensor",
    backends=_backends("dynamic_threshold"),
    fake=lambda x0, *rest: x0.new_empty(x0.shape),
    sample=lambda: (torch.randn(3, 2, 50), 0.9, 1.5),
)

q_sample_forward = Op(
    "q_sample(Tensor x0, Tensor t, Tensor alphas_cumprod, Tensor? noise, int? seed, int offset, str target) "
    "-> (Tensor, Tensor)",
    backends=_backends("q_sample"),
    fake=_q_sample_fake,
    sample=_q_sample_sample,
)

philox_normal = Op(
    "philox_normal(Tensor(a!) out, int seed, int offset) -> ()",
    backends=_backends("philox_normal"),
    fake=lambda *args: None,
    sample=lambda: (torch.empty(7, 13), 5, 3),
)


def _or_reference(op: Op, tensors: int) -> Callable[..., Any]:
    """The operator; its reference where a gradient is asked for or a transform is at work.

    Args:
        tensors: how many of the arguments, the first ones, are tensors or may be.
    """
    plain = op.backends[-1].run

    def call(*args: Any, backend: str = "auto") -> Any:
        given = args[:tensors]
        if _ordinary(given):
            return op.serve(args, backend)
        if graded(*given):
            if op is step_into:
                raise ValueError("out must be None where a gradient is asked for")
            if backend not in ("auto", "reference"):
                raise ValueError(
                    f"backend={backend!r} cannot serve this call of {op.name}: its kernels have no gradient and no "
                    "batching rule, and one is asked for"
                )
            return plain(*args)
        return run(op, *args, backend)

    return call


def _ordinary(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether no gradient is asked for, and nobody has to see the call: in one look at each tensor, since the checks of
    any operator take longer than a small step."""
    if not unobserved():
        return False
    graded = torch.is_grad_enabled()
    for x in tensors:
        if x is not None and (type(x) is not Tensor or x.is_meta or (graded and x.requires_grad)):
            return False
    return True


step_at_once = past_checks(cpu.step_at_once)
q_sample_at_once = past_checks(cpu.q_sample_at_once)
normals_at_once = past_checks(cpu.normals_at_once)


diffusion_step = _or_reference(step_forward, 8)
diffusion_step_into = _or_reference(step_into, 10)
dynamic_threshold = _or_reference(threshold_forward, 1)
q_sample = _or_reference(q_sample_forward, 4)
