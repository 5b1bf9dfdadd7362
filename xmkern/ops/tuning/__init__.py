"""Block shapes, warps and stages: which ones a kernel is launched with, by small tables, one a chip.

``sm_90.json`` beside this file has, for each kernel, rows tried in order. A row holds what it asks of a call and what
it then chooses; of the former, numbers are the greatest that it serves, and what it does not name may be anything. The
last row serves all. ``python -m benchmarks gpu --tune`` measures, and writes the table of the chip that it runs on.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from xmkern.ops.gpu import Chip

FOLDER = Path(__file__).parent
Row = dict[str, Any]

_forced: dict[str, Row] = {}


@cache
def table(name: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


@cache
def nearest(chip: Chip) -> str:
    """The chip's own table, or that of one much like it."""
    name = f"sm_{chip.capability}"
    alike = {"small": "sm_86", "large": "sm_80", "warpgroup": "sm_100" if chip.capability >= 100 else "sm_90"}
    usual = (FOLDER / f"{name}.json").exists() and (chip.sort == "small") == (alike[chip.sort] == "sm_86")
    return name if usual else alike[chip.sort]


def chosen(kernel: str, chip: Chip, **call: int) -> Row:
    """What the table has for a call. The row is the table's own: it must not be changed."""
    return _forced[kernel] if kernel in _forced else _row(kernel, chip, **call)


@cache
def _row(kernel: str, chip: Chip, **call: int) -> Row:
    rows = table(nearest(chip))[kernel]
    return next((row for row in rows if serves(row, call)), rows[-1])


def serves(row: Row, call: dict[str, int]) -> bool:
    for name, wanted in call.items():
        most = row.get(name, wanted)
        if most != wanted if isinstance(most, bool) else most < wanted:
            return False
    return True


@contextmanager
def forced(kernel: str, row: Row) -> Iterator[None]:
    """Launches a kernel with these values, whatever the table says."""
    before = dict(_forced)
    _forced[kernel] = row
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)
