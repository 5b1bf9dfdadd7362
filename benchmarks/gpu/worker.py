"""One job of a run, in a process of its own, so that what fails fails alone: ``python -m benchmarks.gpu.worker JOB``.

floors        measures them
warm F N ..   checks case N of family F against the reference at an odd size, and calls everyone once at full size, so
              that what has to be compiled is
time F        times the cases of a family

Each prints rows, a line of JSON each.
"""

import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from benchmarks.gpu.cases import BOTH, DRY, FORWARD, Case, Inputs, cases
from benchmarks.gpu.clock import Clock, peak_bytes
from benchmarks.gpu.floors import floor_of, measured
from xmkern.testing import assert_matches_reference

SETS = 3  # of inputs, in rotation
_CLOSE = 16  # units in the last place of dtype, in the norm, that two results at full size may differ by
Run = Callable[[Inputs], Any]


def reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"failed: {type(error).__name__}: {(lines or [''])[0]}"[:300]


def runs(case: Case, name: str, passed: str) -> Run:
    """A pass of a contender."""
    call = case.calls[name]

    def forward(inputs: Inputs) -> Any:
        with torch.no_grad():
            return call(**inputs)

    def both(inputs: Inputs) -> Any:
        outputs = call(**inputs)
        outputs = [x for x in (outputs if isinstance(outputs, tuple) else (outputs,)) if x.requires_grad]
        graded = [x for x in inputs.values() if isinstance(x, Tensor) and x.requires_grad]
        cotangents = [_cotangent(x) for x in outputs]
        return torch.autograd.grad(outputs, graded, cotangents)

    return forward if passed == FORWARD else both


_cotangents: dict[Any, Tensor] = {}


def _cotangent(x: Tensor) -> Tensor:
    key = x.shape, x.dtype
    if key not in _cotangents:
        _cotangents[key] = torch.randn(x.shape, dtype=torch.float32, device=x.device).to(x.dtype)
    return _cotangents[key]


def inputs_of(case: Case, size: str, passed: str) -> Inputs:
    made = case.inputs(size)
    if passed == FORWARD:
        return {k: x.detach() if isinstance(x, Tensor) else x for k, x in made.items()}
    return made


def warm(case: Case) -> Iterator[dict[str, Any]]:
    status = "ok"
    try:
        torch.manual_seed(1)
        assert_matches_reference(case.calls["xmkern"], case.inputs("odd"), reference=case.reference)
    except Exception as error:
        status = reason(error)
    yield {"what": "check", "contender": "xmkern", "pass": BOTH, "status": status}
    for passed in case.passes:
        inputs = inputs_of(case, "full", passed)
        found: dict[str, Any] = {}
        for name in case.calls:
            try:
                found[name] = runs(case, name, passed)(inputs)
            except Exception as error:
                yield {"what": "call", "contender": name, "pass": passed, "status": reason(error)}
        if case.compared and passed == FORWARD:
            yield from compared(case, found)
        del found, inputs
        release()


def compared(case: Case, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The others' results at full size against ours."""
    ours = _first(found.pop("xmkern", None))
    for name, result in found.items() if ours is not None else ():
        theirs = _first(result)
        apart = float(torch.linalg.vector_norm(theirs.float() - ours.float()) / torch.linalg.vector_norm(ours.float()))
        close = apart <= _CLOSE * torch.finfo(case.dtype).eps  # and not NaN
        status = "ok" if close else f"failed: differs from ours by {apart:.2g} of its norm"
        yield {"what": "compared", "contender": name, "pass": FORWARD, "status": status}


def _first(result: Any) -> Any:
    return next((x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)), None)


def release() -> None:
    _cotangents.clear()
    gc.collect()
    if not DRY:
        torch.cuda.empty_cache()


def timed(case: Case, clock: Clock, floors: dict[str, float], until: float) -> Iterator[dict[str, Any]]:
    for passed in case.passes:
        floor, by = (0.0, "") if DRY else floor_of(case, passed == BOTH, floors)
        shared = {"what": "time", "pass": passed, "floor_ms": floor * 1e3, "floor": by}
        sets: list[Inputs] = []
        for name in case.calls:
            row = {**shared, "contender": name, "status": "ok"}
            if time.time() > until:
                yield {**row, "status": "skipped: out of time"}
                continue
            try:
                sets = sets or [inputs_of(case, "full", passed) for _ in range(SETS)]
                call = runs(case, name, passed)
                row["ms"] = clock.median(call, sets) * 1e3
                row["peak_mib"] = peak_bytes(call, sets[0]) / 2**20
                if name.startswith("xmkern"):
                    row["graph_ms"] = clock.replayed(call, sets[0]) * 1e3
            except Exception as error:
                row["status"] = reason(error)
            yield row
            release()


def main() -> None:
    job, *rest = sys.argv[1:]
    torch.manual_seed(0)
    if job == "floors":
        show({"what": "floors", **measured(Clock())})
    elif job == "warm":
        family, *numbers = rest
        found = cases(family)
        for number in numbers:
            for row in warm(found[int(number)]):
                show({**facts(family, found[int(number)]), **row})
    elif job == "time":
        family, until, floors = rest[0], float(rest[1]), json.loads(rest[2])
        clock = Clock()
        for case in cases(family):
            for row in timed(case, clock, floors, until):
                show({**facts(family, case), **row})
    else:
        raise SystemExit(f"no job {job!r}")


def facts(family: str, case: Case) -> dict[str, Any]:
    dtype = str(case.dtype).removeprefix("torch.")
    return {"family": family, "case": case.name, "shape": case.shape, "dtype": dtype}


def show(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
