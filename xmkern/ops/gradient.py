"""What operators with a gradient share.

A family writes an autograd function in ``setup_context`` style around two operators: its forward calls :func:`run`, its
backward :func:`run_backward`. The family's call enters the function, by :func:`entrance`, where a gradient may be asked
for, which :func:`graded` says, and is :func:`run` itself elsewhere.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

from xmkern.ops.registry import Op


def graded(*args: Any) -> bool:
    """Whether a gradient of one of these may be asked for: of those that are tensors."""
    # Under torch.func a tensor may hide behind a wrapper that it requires a gradient. A tangent is to be refused, which
    # an autograd function does, not to be lost.
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    if torch.is_grad_enabled():
        for each in args:
            if getattr(each, "requires_grad", False):
                return True
    return False


def unbound(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """What ``function.apply`` comes to when it has bound the arguments to the signature of forward, which takes longer
    than a small kernel. For :func:`entrance`."""
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


def entrance(function: type[torch.autograd.Function], below: Callable[..., Any]) -> Callable[..., Any]:
    """``function.apply``; ``below``, which is ``unbound(function)``, where no compiler or transform has to see it."""
    seen = torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling()
    return function.apply if seen else below


def distinct(*tensors: Tensor | None) -> tuple[Any, ...]:
    """The same, and under torch.compile no tensor twice, which it refuses among the arguments of autograd.Function."""
    if not torch.compiler.is_compiling():
        return tensors
    return tuple(None if tensor is None else tensor.view_as(tensor) for tensor in tensors)


def dispatched(x: Tensor) -> bool:
    """Whether the dispatcher has to see the backward too: what a transform has wrapped, as in the function of
    torch.func.vjp, outlives it."""
    return x.is_meta or torch._C._are_functorch_transforms_active()


def run(op: Op, x: Tensor, *args: Any) -> Any:
    """An operator, without its gradient. The backend is the last of the arguments."""
    if x.is_meta:  # there is nothing to compute: the dispatcher knows the fake
        return op.overload(x, *args)
    return op(x, *args[:-1], backend=args[-1])


def run_backward(op: Op, *args: Any, dispatched: bool, what: str = "") -> Any:
    """The operator of a backward. The backend is the last of the arguments.

    Args:
        dispatched: what :func:`dispatched` said in the forward.
        what: the user's name of what has the gradient; by default the operator's.
    """
    if is_differentiated():
        return once(what or op.name.removesuffix("_backward"), op.overload, *args)
    return op.overload(*args) if dispatched else op(*args[:-1], backend=args[-1])


def is_differentiated() -> bool:
    """Whether a graph of the backward that runs is asked for. torch.compile refuses that by itself."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def once(what: str, backward: Callable[..., Any], *args: Any) -> Any:
    """``backward(*args)``, which says that it has no derivative of its own if that is asked for.

    ``once_differentiable`` would not do: it sees what the gradient of the output depends on, and not that the gradients
    depend on the inputs, so that a penalty on them would be differentiated to zero in silence.
    """
    return _Once.apply(what, backward, *args)


class _Once(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(what: str, backward: Callable[..., Any], *args: Any) -> Any:
        return backward(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.what = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise NotImplementedError(
            f"{ctx.what} has a first derivative only, and here its gradient is differentiated (create_graph=True, or a "
            "transform of a transform)"
        )
