"""When a kernel's results count as right."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from xmkern import functional, native

# An error this many units in the last place of the largest value is rounding, however small eager's own error is.
_ULPS = 8


def assert_matches_reference(
    op: str | Callable[..., Any],
    inputs: Mapping[str, Any],
    backend: str = "auto",
    *,
    reference: Callable[..., Any] | None = None,
) -> None:
    """Raises AssertionError unless a call gives what its reference gives, values and gradients.

    Integer and bool results must be equal. A floating-point result may be at most twice as far from the reference in
    float64 as the reference in the inputs' own dtype is (plus a few units in the last place); so may each gradient of
    an input that requires one, for a random cotangent, where the reference's error is the largest of several. Tensors
    within inputs, as in a list or a RelativeBias, are inputs too. Every call starts from the same state of torch's
    random generators.

    Args:
        op: the name of a call of ``xmkern.functional``, or a function to test against ``reference``.
        inputs: its keyword arguments.
        backend: passed to a call that is given by name.
        reference: what a function given as ``op`` should compute; takes the same keyword arguments.
    """
    if isinstance(op, str):
        call = getattr(functional, op)

        def tested(**kwargs: Any) -> Any:
            return call(**kwargs, backend=backend)

        def expected(**kwargs: Any) -> Any:
            return call(**kwargs, backend="reference")
    else:
        if reference is None:
            raise ValueError("reference must be given when op is a function")
        tested, expected = op, reference

    got = _evaluate(tested, inputs, cotangents=1)
    eager = _evaluate(expected, inputs)
    if set(got) != set(eager):
        raise AssertionError(f"results differ in kind: {sorted(got)} against {sorted(eager)} of the reference")
    exact = eager
    if any(values[0].is_floating_point() for values in eager.values()):
        exact = _evaluate(expected, in_float64(inputs))
    for name in eager:
        _compare(name, got[name], eager[name], exact[name])


# One draw of a gradient that is small by cancellation may be exact in eager PyTorch, by luck: these many are not.
_COTANGENTS = 4


def _evaluate(
    call: Callable[..., Any], inputs: Mapping[str, Any], cotangents: int = _COTANGENTS
) -> dict[str, list[Tensor]]:
    """The outputs of a call, and the gradients of its inputs for each of some cotangents, by name."""
    leaves, spec = pytree.tree_flatten_with_path(dict(inputs))
    fresh = {_name(path): leaf.detach() if isinstance(leaf, Tensor) else leaf for path, leaf in leaves}
    wanted = {_name(path): fresh[_name(path)].requires_grad_() for path, leaf in leaves if _graded(leaf)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        outputs = call(**pytree.tree_unflatten(list(fresh.values()), spec))
    outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
    results = {f"output {i}": [torch.as_tensor(out)] for i, out in enumerate(outputs)}
    graded = [out for (out,) in results.values() if out.requires_grad]
    if wanted and graded:
        generator = torch.Generator().manual_seed(0)
        for _ in range(cotangents):
            drawn = [_cotangent(out, generator) for out in graded]
            grads = torch.autograd.grad(graded, list(wanted.values()), drawn, allow_unused=True, retain_graph=True)
            for (name, value), grad in zip(wanted.items(), grads, strict=True):
                grad = torch.zeros_like(value) if grad is None else grad
                results.setdefault(f"gradient of {name}", []).append(grad)
    return {name: [value.detach() for value in values] for name, values in results.items()}


def _cotangent(out: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers; of an odd number of rows all are one, in memory too, as the gradient of a sum over rows is."""
    shape = list(out.shape)
    if out.dim() > 1 and shape[-2] % 2:
        shape[-2] = 1
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(out).expand(out.shape)


def _name(path: tuple[Any, ...]) -> str:
    """The argument's name, and the way to a tensor within it."""
    return path[0].key + pytree.keystr(path[1:])


def _graded(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def in_float64(values: Any) -> Any:
    """The same with every floating-point tensor in float64."""

    def converted(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.detach().double().requires_grad_(value.requires_grad)
        return value

    return pytree.tree_map(converted, values)


def _compare(name: str, all_got: list[Tensor], all_eager: list[Tensor], all_exact: list[Tensor]) -> None:
    got, eager, exact = all_got[0], all_eager[0], all_exact[0]
    for what in ("shape", "dtype", "device"):
        if getattr(got, what) != getattr(eager, what):
            raise AssertionError(f"{name}: {what} {getattr(got, what)}, the reference has {getattr(eager, what)}")
    if not got.is_floating_point():
        if not torch.equal(got, eager):
            wrong = (got != eager).nonzero()
            raise AssertionError(f"{name}: {len(wrong)} of {got.numel()} differ, the first at {wrong[0].tolist()}")
        return
    finite = exact.isfinite()
    same = torch.equal(got[~finite].double().nan_to_num(), exact[~finite].double().nan_to_num())
    if not same or not got[finite].isfinite().all():
        raise AssertionError(f"{name}: infinities or NaNs are not where the reference has them")
    if not finite.any():
        return
    unit = torch.finfo(got.dtype).eps * float(exact[finite].abs().max())
    error = _error(got, exact)
    allowed = 2 * max(map(_error, all_eager, all_exact)) + _ULPS * unit
    if error > allowed:
        raise AssertionError(f"{name}: error {error:.3g}, allowed {allowed:.3g} (twice eager PyTorch's own)")


def _error(x: Tensor, exact: Tensor) -> float:
    finite = exact.isfinite()
    return float((x.double() - exact.double())[finite].abs().max()) if finite.any() else 0.0


def differences(got: Any, eager: Any, exact: Any) -> str:
    """How the results of an operator differ beyond rounding, in a sentence; empty if they do not.

    eager and exact are the reference's, in the inputs' own dtype and in float64.
    """
    results = [(got, eager, exact)] if isinstance(got, Tensor) else list(zip(got, eager, exact, strict=True))
    for i, result in enumerate(results):
        try:
            _compare(f"output {i}", *([each] for each in result))
        except AssertionError as error:
            return str(error)
    return ""


def each_capability() -> Iterator[str]:
    """Makes each CPU capability of this machine the one in force, in turn; the one before is restored at the end."""
    before = native.cpu_capability()
    if before is None:
        return
    try:
        for name in native.cpu_capabilities():
            native.set_cpu_capability(name)
            yield name
    finally:
        native.set_cpu_capability(before)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Runs a block with torch, and so the kernels, on this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
