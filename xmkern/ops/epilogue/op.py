"""The operators of what follows a projection: schemas, fakes, backends, and the gradients."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from xmkern.ops.dtype import wide_dtype
from xmkern.ops.epilogue import cpu, reference, triton
from xmkern.ops.epilogue.reference import sum_dtype
from xmkern.ops.gradient import dispatched, distinct, entrance, graded, run, run_backward, unbound
from xmkern.ops.registry import Backend, Op

_LAUNCHERS: dict[str, ModuleType] = {"cpu": cpu, "triton": triton}


def _op(schema: str, fake: Callable[..., Any], sample: Callable[[], tuple[Any, ...]]) -> Op:
    name = schema.partition("(")[0]
    fast = [Backend(kind, getattr(own, name), _refuses(own, name)) for kind, own in _LAUNCHERS.items()]
    backends = [*fast, Backend("reference", getattr(reference, name))]
    return Op(schema, backends=backends, fake=fake, sample=sample, at_once=getattr(cpu, f"{name}_at_once"))


def _refuses(own: ModuleType, name: str) -> Callable[..., str | None]:
    return getattr(own, "refuses_norm", own.refuses) if name.startswith("add_norm") else own.refuses


def _fake_add_norm(x: Tensor, residual: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    inner, outer, keep_sum = rest[5:8]
    dtype = sum_dtype(x, residual)
    out, kept = (x.new_empty(x.shape if wanted else 0, dtype=dtype) for wanted in (outer, keep_sum))
    return out, kept, x.new_empty((inner + outer, 2, x.numel() // x.shape[-1]), dtype=wide_dtype(dtype))


def _fake_add_norm_backward(
    grad_out: Tensor | None, grad_sum: Tensor | None, x: Tensor | None, residual: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    like = grad_out if grad_out is not None else grad_sum
    assert like is not None
    parameters, residual_grad = sum(p is not None for p in rest[2:7]), rest[9]
    return (
        like.new_empty(like.shape, dtype=like.dtype if x is None else x.dtype),
        like.new_empty(like.shape if residual_grad else 0, dtype=like.dtype if residual is None else residual.dtype),
        like.new_empty(parameters, like.shape[-1], dtype=wide_dtype(like.dtype)),
    )


def _sample_add_norm() -> tuple[Any, ...]:
    x, residual, *parameters = (torch.randn(shape) for shape in ((3, 7, 20), (3, 7, 20), *[(20,)] * 5))
    return x, residual, *parameters, True, True, True, False, True, 1e-3, 0.3, torch.tensor([5])


def _sample_add_norm_backward() -> tuple[Any, ...]:
    x, residual, *parameters = _sample_add_norm()[:7]
    _, kept, moments = reference.add_norm(*_sample_add_norm())
    grads = torch.randn_like(x), torch.randn_like(x)
    flags = (True, False, True, 0.3, torch.tensor([5]))
    return *grads, x, residual, kept, moments, *parameters, *flags


def _fake_gated_residual(x: Tensor, residual: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape, dtype=sum_dtype(x, residual))


def _fake_gated_residual_backward(
    grad: Tensor, x: Tensor, gate: Tensor | None, bias: Tensor | None, activation: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    dense = gate is not None and gate.dim() > 1
    parameters = (gate is not None and not dense) + (bias is not None)
    grad_gate = gate.new_empty(x.shape) if gate is not None and dense else x.new_empty(0)
    return x.new_empty(x.shape), grad_gate, grad.new_empty(parameters, x.shape[-1], dtype=wide_dtype(grad.dtype))


def _sample_gated_residual() -> tuple[Any, ...]:
    return *(torch.randn(shape) for shape in ((3, 7, 20), (3, 7, 20), (20,), (20,))), "tanh"


def _fake_bias_activation(x: Tensor, bias: Tensor | None, activation: str, gated: bool) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2 if gated else x.shape[-1]))


def _fake_bias_activation_backward(
    grad: Tensor, x: Tensor, bias: Tensor | None, activation: str, gated: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(0 if bias is None else x.shape[-1], dtype=wide_dtype(x.dtype))


add_norm_forward = _op(
    "add_norm(Tensor x, Tensor? residual, Tensor? linear_bias, Tensor? inner_weight, Tensor? inner_bias, "
    "Tensor? weight, Tensor? bias, bool inner, bool outer, bool keep_sum, bool rms, bool pb_relax, float eps, "
    "float dropout_p, Tensor? seed) -> (Tensor, Tensor, Tensor)",
    _fake_add_norm,
    _sample_add_norm,
)
add_norm_backward = _op(
    "add_norm_backward(Tensor? grad_out, Tensor? grad_sum, Tensor? x, Tensor? residual, Tensor? kept_sum, "
    "Tensor moments, Tensor? linear_bias, Tensor? inner_weight, Tensor? inner_bias, Tensor? weight, Tensor? bias, "
    "bool inner, bool rms, bool residual_grad, float dropout_p, Tensor? seed) -> (Tensor, Tensor, Tensor)",
    _fake_add_norm_backward,
    _sample_add_norm_backward,
)
gated_residual_forward = _op(
    "gated_residual(Tensor x, Tensor residual, Tensor? gate, Tensor? bias, str? activation) -> Tensor",
    _fake_gated_residual,
    _sample_gated_residual,
)
gated_residual_backward = _op(
    "gated_residual_backward(Tensor grad, Tensor x, Tensor? gate, Tensor? bias, str? activation) "
    "-> (Tensor, Tensor, Tensor)",
    _fake_gated_residual_backward,
    lambda: (torch.randn(3, 7, 20), *_sample_gated_residual()[:1], *_sample_gated_residual()[2:]),
)
bias_activation_forward = _op(
    "bias_activation(Tensor x, Tensor? bias, str activation, bool gated) -> Tensor",
    _fake_bias_activation,
    lambda: (torch.randn(3, 7, 40), torch.randn(40), "gelu", True),
)
bias_activation_backward = _op(
    "bias_activation_backward(Tensor grad, Tensor x, Tensor? bias, str activation, bool gated) -> (Tensor, Tensor)",
    _fake_bias_activation_backward,
    lambda: (torch.randn(3, 7, 20), torch.randn(3, 7, 40), torch.randn(40), "gelu", True),
)


class _AddNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        return run(add_norm_forward, *args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, residual, *parameters = inputs[:7]
        inner, outer, keep_sum, rms, _, _, dropout_p, seed, ctx.backend = inputs[7:]
        _, kept, moments = output
        ctx.dispatched = dispatched(x)
        ctx.mark_non_differentiable(moments)
        ctx.set_materialize_grads(False)
        ctx.outputs, ctx.options = (outer, keep_sum), (inner, rms, dropout_p)
        ctx.mixed = residual is not None and residual.dtype != x.dtype
        # A sum that the caller has anyway is kept in place of what it was summed of, if anything reads it.
        needed = inner or not keep_sum
        summed = outer and not keep_sum
        ctx.save_for_backward(
            x if needed else None,
            residual if summed else None,
            kept if keep_sum and outer else None,
            moments,
            *parameters,
            seed,
        )

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_sum: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        grad_out, grad_sum = (g if there else None for g, there in zip((grad_out, grad_sum), ctx.outputs, strict=True))
        if grad_out is None and grad_sum is None:
            return (None,) * 16
        *tensors, seed = ctx.saved_tensors
        inner, rms, dropout_p = ctx.options
        # What is between x and the sum makes their gradients differ, and the residual has the sum's; or the dtypes do.
        between = inner or seed is not None or ctx.mixed
        apart = ctx.needs_input_grad[1] and between and grad_out is not None
        # Where x is not at hand its gradient comes in the dtype of the sum, and autograd casts it.
        args = (grad_out, grad_sum, *tensors, inner, rms, apart, dropout_p, seed, ctx.backend)
        grad_x, grad_residual, of_parameters = run_backward(add_norm_backward, *args, dispatched=ctx.dispatched)
        if not apart:
            grad_residual = grad_sum if between else grad_x
        grads = iter(of_parameters.unbind())
        return (
            grad_x,
            grad_residual if ctx.needs_input_grad[1] else None,
            *[None if parameter is None else next(grads) for parameter in tensors[4:9]],
            *(None,) * 9,
        )


class _GatedResidual(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return run(gated_residual_forward, *args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, gate, bias, ctx.activation, ctx.backend = inputs
        ctx.dispatched = dispatched(x)
        ctx.save_for_backward(x, gate, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, bias = ctx.saved_tensors
        args = (grad, x, gate, bias, ctx.activation, ctx.backend)
        grad_x, grad_gate, of_parameters = run_backward(gated_residual_backward, *args, dispatched=ctx.dispatched)
        if gate is None:
            grad_gate = None
        elif gate.dim() <= 1:
            grad_gate = of_parameters[0] if gate.shape == x.shape[-1:] else of_parameters[0].sum().view(gate.shape)
        return grad_x, grad, grad_gate, None if bias is None else of_parameters[-1], None, None


class _BiasActivation(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return run(bias_activation_forward, *args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, bias, *ctx.options, ctx.backend = inputs
        ctx.dispatched = dispatched(x)
        ctx.save_for_backward(x, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, bias = ctx.saved_tensors
        args = (grad, x, bias, *ctx.options, ctx.backend)
        grad_x, grad_bias = run_backward(bias_activation_backward, *args, dispatched=ctx.dispatched)
        return grad_x, None if bias is None else grad_bias, None, None, None


_add_norm, _gated_residual, _bias_activation = map(unbound, (_AddNorm, _GatedResidual, _BiasActivation))


def _call(
    function: type[torch.autograd.Function], below: Callable[..., Any], op: Op, tensors: int, args: tuple[Any, ...]
) -> Any:
    """The operator, with its gradient where one of the first arguments, the tensors, asks for one."""
    if graded(*args[:tensors]):
        return entrance(function, below)(*distinct(*args[:tensors]), *args[tensors:])
    return run(op, *args)


def add_norm(*args: Any) -> tuple[Tensor, Tensor]:
    """The operator with its gradient, the backend last -> out [..., D] or [0], the sum [..., D] or [0]"""
    out, kept, _ = _call(_AddNorm, _add_norm, add_norm_forward, 7, args)
    return out, kept


def add_norm_at_once(*args: Any) -> tuple[Tensor, Tensor] | None:
    """The operator without dropout, as the extension serves it past all checks, with its gradient; or None."""
    made = add_norm_forward.at_once(*args, 0.0, None, False)
    return _add_norm(*args, 0.0, None, "auto")[:2] if made is True else made and made[:2]


def gated_residual_at_once(*args: Any) -> Tensor | None:
    made = gated_residual_forward.at_once(*args)
    return _gated_residual(*args, "auto") if made is True else made


def bias_activation_at_once(*args: Any) -> Tensor | None:
    made = bias_activation_forward.at_once(*args)
    return _bias_activation(*args, "auto") if made is True else made


def gated_residual(*args: Any) -> Tensor:
    return _call(_GatedResidual, _gated_residual, gated_residual_forward, 4, args)


def bias_activation(*args: Any) -> Tensor:
    return _call(_BiasActivation, _bias_activation, bias_activation_forward, 2, args)
