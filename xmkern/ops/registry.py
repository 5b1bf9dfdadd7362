"""How an operator is registered: once, with a fake, a batching rule, and the backends that can serve it.

The choice of a backend happens inside the operator, on real tensors, so a compiled graph holds one opaque call and the
reference is always there to fall back to.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import forward_ad

from xmkern import native

library = torch.library.Library("xmkern", "DEF")


def _serves_everything(*args: Any) -> str | None:
    return None


@dataclass(frozen=True)
class Backend:
    """One implementation of an operator.

    ``refuses(*args)`` says in a sentence why it cannot serve these arguments, or returns None if it can.
    """

    name: str
    run: Callable[..., Any]
    refuses: Callable[..., str | None] = _serves_everything


class Op:
    """An operator ``xmkern::<name>`` and its backends, best first; the last one is the reference.

    Args:
        schema: the signature, as in ``"pack_bits(Tensor x) -> Tensor"``; a trailing argument ``str backend`` is added.
        backends: what can serve it, best first; the last must serve everything.
        fake: shapes and dtypes of the outputs, from the same arguments.
        sample: makes a small, typical tuple of arguments, for the doctor and for ``opcheck``.
        fold: how ``torch.vmap`` is served (see ``torch.library.register_vmap``); by default once per element.
        at_once: what the extension does with the same arguments where all are as they mostly are, without checks and
            choices in Python, which take longer than a small kernel: it looks at them itself, and returns None unless
            it serves the call, or True where only the gradient that is asked for keeps it from that. Results that are
            not wanted may be None.
    """

    def __init__(
        self,
        schema: str,
        *,
        backends: Sequence[Backend],
        fake: Callable[..., Any],
        sample: Callable[[], tuple[Any, ...]],
        fold: Callable[..., Any] | None = None,
        at_once: Callable[..., Any] | None = None,
    ) -> None:
        self.name = schema.partition("(")[0]
        self.backends = tuple(backends)
        self.sample = sample
        self._at_once = at_once if native.READS_TENSORS else None
        if at_once is not None:
            self.at_once = past_checks(at_once)  # for callers whose own checks it spares
        library.define(_with_backend(schema))
        library.impl(self.name, self._run, "CompositeExplicitAutograd")
        qualified = f"xmkern::{self.name}"
        torch.library.register_fake(qualified, lambda *args: fake(*args[:-1]), lib=library)
        torch.library.register_vmap(qualified, fold or self._one_by_one, lib=library)
        self.overload = getattr(torch.ops.xmkern, self.name).default
        _ops[self.name] = self

    def __call__(self, *args: Any, backend: str = "auto") -> Any:
        # The dispatcher takes longer than a small kernel: it is left out where it would only come back to serve.
        if unobserved():
            if self._at_once is not None and backend == "auto":
                made = self._at_once(*args)
                if made is not None and made is not True:
                    return made
            if PLAIN.issuperset(map(type, args)) and not any(x.is_neg() for x in args if isinstance(x, torch.Tensor)):
                return self.serve(args, backend)
        return self.overload(*args, backend)

    def refusals(self, *args: Any) -> Iterator[tuple[Backend, str | None]]:
        """Each backend, best first, with the reason why it cannot serve these arguments (None: it can)."""
        for backend in self.backends:
            yield backend, backend.refuses(*args)

    def _run(self, *args: Any) -> Any:
        return self.serve(args[:-1], args[-1])

    def serve(self, args: tuple[Any, ...], wanted: str) -> Any:
        """Calls the first backend that can serve these arguments, past the dispatcher."""
        for backend in self.backends:
            if wanted not in ("auto", backend.name):
                continue
            reason = backend.refuses(*args)
            if reason is None:
                return backend.run(*args)
            if wanted != "auto":
                raise ValueError(f"backend={wanted!r} cannot serve this call of {self.name}: {reason}")
        names = ", ".join(repr(b.name) for b in self.backends)
        raise ValueError(f"backend must be 'auto' or one of {names} for {self.name}, not {wanted!r}")

    def _one_by_one(self, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        def element(arg: Any, dim: Any, i: int) -> Any:
            if isinstance(arg, list | tuple):
                dims = dim if isinstance(dim, list | tuple) else [dim] * len(arg)
                return [element(a, d, i) for a, d in zip(arg, dims, strict=True)]
            return arg if dim is None or not isinstance(arg, torch.Tensor) else arg.select(dim, i)

        outputs = [self.overload(*element(args, in_dims, i)) for i in range(info.batch_size)]
        if isinstance(outputs[0], torch.Tensor):
            return torch.stack(outputs), 0
        kind = type(outputs[0])  # a tuple, or the list that a schema promises
        return kind(torch.stack(parts) for parts in zip(*outputs, strict=True)), kind([0] * len(outputs[0]))


_ops: dict[str, Op] = {}

PLAIN = frozenset({torch.Tensor, torch.nn.Parameter, bool, int, float, str, tuple, type(None)})
_keys = torch._C.DispatchKeySet(torch._C.DispatchKey.BackendSelect)
_local_keys = torch._C._dispatch_tls_local_include_set
_profiled = torch.autograd._profiler_enabled
_UNOBSERVED = {
    _keys.raw_repr(),
    _keys.add(torch._C.DispatchKey.ADInplaceOrView).raw_repr(),
}  # the former: inference mode


def unobserved() -> bool:
    """Whether no compiler, mode, transform, forward-mode differentiation, tracer or profiler has to see the calls of
    operators; a tensor subclass may."""
    return (
        not torch.compiler.is_compiling()
        and _local_keys().raw_repr() in _UNOBSERVED
        and forward_ad._current_level < 0
        and not _profiled()
    )


def past_checks(launch: Callable[..., Any]) -> Callable[..., Any]:
    """``launch``, by which the extension looks at tensors itself; None where it cannot, or somebody has to see the
    call."""

    def call(*args: Any) -> Any:
        return launch(*args) if native.READS_TENSORS and unobserved() else None

    return call


def ops() -> dict[str, Op]:
    """All registered operators by name."""
    return dict(_ops)


def _with_backend(schema: str) -> str:
    head, _, result = schema.rpartition(") ->")
    return f"{head}, str backend) ->{result}"
