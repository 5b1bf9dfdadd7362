"""Measures other tiles than those of a chip's table, and writes the table with the better ones: for each case, and each
kernel that it launches, the table's row and its neighbours, each of which has one value changed.

A row is replaced only where a neighbour is faster by more than two timings of the same differ, and gives right values.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.gpu.cases import DRY, FAMILIES, Case, cases
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.worker import SETS, inputs_of, release, runs
from xmkern.ops import tuning
from xmkern.ops.tuning import Row
from xmkern.testing import assert_matches_reference

_GAIN = 1.03
_SIZES = {"warps": (1, 16), "stages": (1, 5)}  # the least and the most
TIED = {
    "attention.grad_bias": ("rows", "keys"),  # square
}
FIXED = {"contrastive.forward": {"chunk"}, "contrastive.backward": {"chunk"}}  # the same in both


def neighbours(kernel: str, row: Row, asked: set[str]) -> Iterator[Row]:
    """asked: the names in the row that say what calls it serves."""
    values = [name for name in row if name not in asked and name not in FIXED.get(kernel, ())]
    tied = TIED.get(kernel, ())
    for name in values:
        if name in tied[1:]:
            continue
        together = tied if name in tied else (name,)
        if name == "stages":
            others = [row[name] - 1, row[name] + 1]
        else:
            others = [row[name] // 2, row[name] * 2]
        least, most = _SIZES.get(name, (1, 1 << 14))
        for other in others:
            if least <= other <= most:
                yield row | dict.fromkeys(together, other)


def launched_with(call: Callable[[], Any]) -> dict[str, tuple[Row, set[str]]]:
    """The rows of the table that a call takes, by kernel, and what it asked for."""
    found: dict[str, tuple[Row, set[str]]] = {}
    before = tuning.chosen

    def chosen(kernel: str, chip: Any, **asked: int) -> Row:
        found[kernel] = before(kernel, chip, **asked), set(asked)
        return found[kernel][0]

    with patch.object(tuning, "chosen", chosen):
        call()
    return found


def better(case: Case, clock: Clock, until: float) -> Iterator[tuple[str, Row, Row, float]]:
    """-> kernel, the table's row, one that is faster, and how many times."""
    passed = case.passes[-1]
    sets = [inputs_of(case, "full", passed) for _ in range(SETS)]
    call = runs(case, "xmkern", passed)
    for kernel, (row, asked) in launched_with(lambda: call(sets[0])).items():
        usual = max(clock.median(call, sets) for _ in range(2))
        best, least = row, usual / _GAIN
        for other in neighbours(kernel, row, asked):
            if time.time() > until:
                return
            try:
                with tuning.forced(kernel, other):
                    taken = clock.median(call, sets)
                    if taken < least:
                        assert_matches_reference(case.calls["xmkern"], case.inputs("odd"), reference=case.reference)
                        best, least = other, taken
            except Exception as error:  # what does not fit, or is wrong
                print(f"  {kernel} {other}: {type(error).__name__}", flush=True)
        if best is not row:
            yield kernel, row, best, usual / least


def dumped(table: dict[str, list[Row]]) -> str:
    """As the tables are written: a line a row."""
    kernels = (f' "{kernel}": [\n' + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]"
               for kernel, rows in table.items())  # fmt: skip
    return "{\n" + ",\n".join(kernels) + "\n}\n"


def main(out: Path, seconds: float, families: list[str] | None = None) -> None:
    import torch

    from xmkern.ops import gpu

    chip = gpu.chip_of(torch.device("cpu" if DRY else "cuda"))
    table = json.loads(dumped(tuning.table(tuning.nearest(chip))))
    clock, until = Clock(), time.time() + seconds
    for family in families or FAMILIES:
        for case in cases(family):
            if time.time() > until:
                print(f"{family}, {case.name}: skipped: out of time", flush=True)
                continue
            try:
                for kernel, old, new, gain in better(case, clock, until):
                    if old in table[kernel]:  # and not replaced for an earlier case
                        table[kernel][table[kernel].index(old)] = new
                        print(f"{family}, {case.name}: {kernel} {old} -> {new}, {gain:.2f} times as fast", flush=True)
            except Exception as error:
                print(f"{family}, {case.name}: failed: {error}", flush=True)
            release()
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"sm_{chip.capability}.json"
    path.write_text(dumped(table))
    if not DRY:
        shutil.copy(path, tuning.FOLDER / path.name)
    print(f"the table is in {path}, and where the launchers read it" if not DRY else f"the table is in {path}")
