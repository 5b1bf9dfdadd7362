"""The table of what kernels come to when compiled, ``results/gpu_static.csv``: written by
``python -m benchmarks gpu --static``, and compared with by the tests."""

import csv
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

from benchmarks.gpu.compiled import Figures, compiled
from benchmarks.gpu.launches import FAMILIES, Launch, launches
from benchmarks.measure import RESULTS

PATH = RESULTS / "gpu_static.csv"
CHIPS = (80, 90, 100)  # that the table has
COLUMNS = (
    "family", "call", "chip", "number", "kernel", "tiles", "warps", "registers", "stack", "shared", "instructions",
    "triton",
)  # fmt: skip
Key = tuple[str, str, int]  # family, call, chip


def figures(family: str, launch: Launch, chip: int) -> list[Figures]:
    return [each for each, _ in compiled(chip, launch.call)]


@cache
def table() -> dict[Key, list[dict[str, str]]]:
    found: dict[Key, list[dict[str, str]]] = {}
    if PATH.exists():
        with PATH.open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault((row["family"], row["call"], int(row["chip"])), []).append(row)
    return found


def regressions(key: Key, found: list[Figures]) -> Iterator[str]:
    """What is worse than the table has it, in sentences. Registers and stack are compared with what the same version of
    Triton made; the chip's limits and the instructions hold for all."""
    import triton

    family, call, chip = key
    here = f"{family}, {call}, sm_{chip}"
    for each in found:
        yield from (f"{here}: {each.kernel} ({each.tiles}) has {misfit}" for misfit in each.misfits(chip))
    rows = table().get(key, [])
    if chip not in CHIPS:
        return
    if [row["kernel"] for row in rows] != [each.kernel for each in found]:
        yield f"{here}: launches {[each.kernel for each in found]}, and the table has {[r['kernel'] for r in rows]}"
        return
    for row, each in zip(rows, found, strict=True):
        where = f"{here}: {each.kernel} ({each.tiles})"
        gone = set(row["instructions"].split()) - set(each.instructions)
        if gone:
            yield f"{where} no longer has the instructions {', '.join(sorted(gone))}"
        if row["triton"] == triton.__version__:
            if each.stack > int(row["stack"]):
                yield f"{where} has {each.stack} bytes on the stack, and had {row['stack']}"
            if each.tiles == row["tiles"] and each.registers > int(row["registers"]) + 8:
                yield f"{where} has {each.registers} registers, and had {row['registers']}"


def write(found: dict[Key, list[dict[str, Any]]]) -> None:
    """Puts the rows of some calls into the table, and takes those out whose calls are no more."""
    listed = {(family, launch.name, chip) for family in FAMILIES for chip in CHIPS for launch in launches(family, chip)}
    merged = {key: rows for key, rows in (table() | found).items() if key in listed}
    with PATH.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for _, rows in sorted(merged.items()) for row in rows)
    table.cache_clear()


def _rows(job: tuple[str, str, int]) -> list[dict[str, Any]]:
    import triton

    family, name, chip = job
    launch = next(each for each in launches(family, chip) if each.name == name)
    rows = []
    for number, each in enumerate(figures(family, launch, chip)):
        values = {**vars(each), "instructions": " ".join(each.instructions), "triton": triton.__version__}
        rows.append({"family": family, "call": name, "chip": chip, "number": number, **values})
    return rows


def main(
    families: Iterable[str] = FAMILIES, chips: Iterable[int] = CHIPS, jobs: int = 2, usual_only: bool = False
) -> None:
    """Compiles everything, in so many processes, and writes the table."""
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for chip in chips:
            for family in families:
                wanted = [launch for launch in launches(family, chip) if launch.usual or not usual_only]
                keys = [(family, launch.name, chip) for launch in wanted]
                found = dict(zip(keys, pool.map(_rows, keys), strict=True))
                write(found)
                rows = [row for each in found.values() for row in each]
                stack = max((row["stack"] for row in rows), default=0)
                print(f"{family}, sm_{chip}: {len(rows)} kernels, at most {stack} bytes on the stack", flush=True)
