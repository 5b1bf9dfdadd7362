"""``python -m xmkern``: what this machine can do, and whether it does it right."""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import Any

import torch

import xmkern
from xmkern import native
from xmkern.ops.registry import ops


def environment() -> dict[str, Any]:
    """Versions, CPU capability, threads, and for each operator which backend serves it and why the others do not."""
    packages: dict[str, str | None] = {}
    for name in ("torch", "numpy", "triton", "faiss-cpu", "transformers", "diffusers", "open-clip-torch"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    serving = {}
    for name, op in ops().items():
        reasons = {backend.name: reason for backend, reason in op.refusals(*op.sample())}
        serving[name] = {
            "served_by": next(backend for backend, reason in reasons.items() if reason is None),
            "refused": {backend: reason for backend, reason in reasons.items() if reason},
        }
    return {
        "xmkern": xmkern.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": packages,
        "native": native.why_missing() or "loaded",
        "cpu_capability": native.cpu_capability(),
        "cpu_capabilities": native.cpu_capabilities(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "operators": serving,
    }


def show_environment(args: argparse.Namespace) -> int:
    facts = environment()
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    operators, packages = facts.pop("operators"), facts.pop("packages")
    facts["cpu_capabilities"] = ", ".join(facts["cpu_capabilities"]) or None
    for name, value in {**facts, **packages}.items():
        print(f"{name:<18} {value if value is not None else '-'}")
    print("\noperators")
    for name, serving in operators.items():
        print(f"  {name:<16} {serving['served_by']}")
        for backend, reason in serving["refused"].items():
            print(f"  {'':<16} not {backend}: {reason}")
    return 0


def check(args: argparse.Namespace) -> int:
    """Runs every operator on every backend and CPU capability, and compares with the reference."""
    from xmkern.testing import each_capability
    from xmkern.testing.compare import differences, in_float64

    def call(op: Any, sample: tuple[Any, ...], backend: str) -> Any:
        """What the operator returns, or what it has written where it returns nothing."""
        sample = tuple(x.clone() if isinstance(x, torch.Tensor) else x for x in sample)
        out = op(*sample, backend=backend)
        return [x for x in sample if isinstance(x, torch.Tensor)] if out is None else out

    failures = 0
    for name, op in ops().items():
        torch.manual_seed(0)
        sample = op.sample()
        eager, exact = (call(op, given, "reference") for given in (sample, in_float64(sample)))
        for backend, reason in op.refusals(*sample):
            if backend.name == "reference":
                continue
            if reason:
                print(f"  -   {name:<18} {backend.name}: {reason}")
                continue
            for level in each_capability() if backend.name == "cpu" else [""]:
                wrong = differences(call(op, sample, backend.name), eager, exact)
                failures += bool(wrong)
                print(f"  {'BAD' if wrong else 'ok '} {name:<18} {backend.name} {level} {wrong or ''}")
    print("every backend agrees with the reference" if not failures else f"{failures} disagree with the reference")
    return 1 if failures else 0


# Commands with a parser of their own: module, extra that it needs, help.
ELSEWHERE = {
    "search": ("xmkern.demo.search", "data", "search the demo's pictures by text"),
    "zoo": ("xmkern.zoo.cli", "zoo", "list, describe and train the systems of xmkern.models"),
}


def run_elsewhere(command: str, argv: Sequence[str]) -> int:
    module, extra, _ = ELSEWHERE[command]
    try:
        return import_module(module).main(argv)
    except ModuleNotFoundError as error:
        why = f"{error.name} is needed for this: pip install xmkern[{extra}]"
    except ImportError as error:  # it says the extra itself
        why = str(error)
    print(f"error: {why}", file=sys.stderr)
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in ELSEWHERE:  # before argparse, which would take their options for its own
        return run_elsewhere(argv[0], argv[1:])
    parser = argparse.ArgumentParser(prog="python -m xmkern", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    env = commands.add_parser("env", help="versions, CPU capability, and which backend serves each operator")
    env.add_argument("--json", action="store_true", help="as JSON")
    env.set_defaults(run=show_environment)
    doctor = commands.add_parser("check", help="compare every backend on this machine with the reference")
    doctor.set_defaults(run=check)
    for command, (_, _, text) in ELSEWHERE.items():
        commands.add_parser(command, help=text)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
