"""``python -m xmkern.demo``: the main job on real data, in about two minutes on two cores."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m xmkern.demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where to write (default demo/)")
    parser.add_argument("--steps", type=int, help="how many training steps")
    parser.add_argument("--seconds", type=float, help="cool down and stop training after this long")
    options = parser.parse_args(argv)
    try:
        from rich.console import Console

        from xmkern.demo.run import run
        from xmkern.demo.train import Recipe
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is needed for this: pip install xmkern[data]", file=sys.stderr)
        return 1
    given = {name: value for name in ("steps", "seconds") if (value := getattr(options, name)) is not None}
    if any(value <= 0 for value in given.values()):
        parser.error("--steps and --seconds must be positive")
    try:
        run(options.folder, Recipe(**given), Console())
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
