"""How a time is taken: ours and the peers in alternation, in bursts, in one process, on the same inputs; medians."""

import csv
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import xmkern

RESULTS = Path(__file__).parent / "results"

# What a profiler calls the products of linear layers, whoever computes them.
PRODUCTS = ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise", "xmkern::linear", "xmkern::linear_backward")

# Where rows of lesser processors lie.
_FOLDERS = {"avx2": "avx2", "avx512": "avx512", "avx512_vpopcntdq": "avx512"}

# Seconds of rest before a burst. The threads that an OpenMP runtime has just used go on spinning for a while (up to
# nine milliseconds were seen), and FAISS brings a runtime of its own: they would take the cores from whoever is next.
_REST = 0.02


def alternate(
    calls: Mapping[str, Callable[[], Any]], seconds: float = 2.0, least: int = 5, burst: int = 3
) -> dict[str, float]:
    """The median time of each call, in seconds, as a program sees it that makes one such call after another.

    In every round each call has a burst: a rest, in which the others' threads go to sleep, one call that is not timed,
    and `burst` timed calls back to back. The rest keeps contenders out of each other's time; but it also puts the
    call's own threads to sleep and its data out of the caches, and waking them costs as much as a search for one query,
    so what is timed comes after a call that did that. Rounds go on for `seconds`, and there are at least `least`, so
    that a machine that slows down slows all; but a call that takes longer than all that should gets no burst, and once
    ten times as long has passed there is no further round.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    began, rounds = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds or (rounds < least and passed < 10 * seconds):
        for name, call in calls.items():
            time.sleep(_REST)
            call()
            for _ in range(burst):
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
                if times[name][-1] > seconds:
                    break
        rounds += 1
    return {name: statistics.median(each) for name, each in times.items()}


def read_bandwidth(megabytes: int = 256) -> float:
    """Bytes a second that all threads together read from memory, by a sum over a tensor that no cache holds."""
    big = torch.ones(megabytes * 2**20 // 8, dtype=torch.int64)
    return big.nbytes / alternate({"read": big.sum}, seconds=1.0)["read"]


def machine() -> dict[str, Any]:
    """The facts that a row must carry to mean something later."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent, check=False
    )
    return {
        "processor": _processor(),
        "capability": xmkern.cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "xmkern": xmkern.__version__,
        "commit": commit.stdout.strip() or "unknown",
    }


def write_rows(name: str, rows: list[dict[str, Any]]) -> Path:
    """Writes rows with the machine's facts to ``results/<name>.csv``, on a processor without all that kernels make use
    of to a folder below, where ratios are other ones."""
    facts = machine()
    path = RESULTS / _FOLDERS.get(facts["capability"], "") / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".partial")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *facts], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **facts} for row in rows)
    os.replace(temporary, path)
    return path


def _processor() -> str:
    """Its name with family and model, by which two of one name are told apart."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"
