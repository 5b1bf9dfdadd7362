"""``python -m benchmarks gpu``: everything that wants a GPU, in one command and in bounded time.

Floors first; then, side by side in processes, the checks of the kernels' tests and of all cases, which compile what has
to be; then the times, one process a family, alone on the GPU. A failure is a row.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu import report

ROOT = Path(__file__).parents[2]
TESTS = sorted(path.parent.name for path in (ROOT / "tests").glob("*/test_triton.py"))
_SHARE_OF_CHECKS = 0.55  # of the time
NO_GPU = "none, a dry run"
_SPARE = 15.0  # seconds that are left for the report
Row = dict[str, Any]


class Run:
    def __init__(self, families: list[str], budget: float, jobs: int, dry: bool) -> None:
        self.families, self.jobs, self.dry = families, jobs, dry
        self.began, self.budget = time.time(), budget
        self.environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "2"}
        if dry:
            self.environment |= {"XMKERN_DRY_RUN": "1", "TRITON_INTERPRET": "1", "OMP_WAIT_POLICY": "PASSIVE"}

    def command(self, row: Row, module: str, *args: str, until: float) -> list[Row]:
        """The rows that a process prints, and one more if it failed. row: what is known of it."""
        left = until - time.time()
        if left < 1:
            return [{**row, "status": "skipped: out of time"}]
        command = [sys.executable, "-m", module, *args]
        process = subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            out, err = process.communicate(timeout=left)
            ended = "ok" if process.returncode == 0 else f"failed: {_last(err)}"
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            ended = "skipped: out of time"
        rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return rows if ended == "ok" and rows else [*rows, {**row, "status": ended}]

    def checks(self) -> list[Row]:
        """Those of the kernels' own tests, and one for each case, which also compiles for it."""
        until = self.began + self.budget * _SHARE_OF_CHECKS
        jobs: list[tuple[Row, str, tuple[str, ...]]] = []
        for family in self.families:
            cases = self.named("cases", family)
            if self.dry:  # in one process
                args = ("warm", family, *map(str, range(len(cases))))
                jobs.append((_row("check", family, "all cases"), "benchmarks.gpu.worker", args))
                continue
            for number, case in enumerate(cases):
                jobs.append((_row("check", family, case), "benchmarks.gpu.worker", ("warm", family, str(number))))
        if not self.dry:
            for family in TESTS:
                for check in self.named("checks", family):
                    jobs.append((_row("check", f"tests of {family}", check), f"tests.{family}.test_triton", (check,)))
        with ThreadPoolExecutor(self.jobs) as pool:
            found = pool.map(lambda job: self.command(job[0], job[1], *job[2], until=until), jobs)
            return [row for rows in found for row in rows]

    def named(self, what: str, family: str) -> list[str]:
        """Names, which this process leaves to another: it is to hold no GPU."""
        code = {
            "cases": f"from benchmarks.gpu.cases import cases; print(*(c.name for c in cases({family!r})), sep='\\n')",
            "checks": f"from tests.{family}.test_triton import CHECKS; print(*CHECKS, sep='\\n')",
        }[what]
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )
        return done.stdout.splitlines()

    def times(self, floors: Row) -> list[Row]:
        end, rows = self.began + self.budget - _SPARE, []
        for i, family in enumerate(self.families):
            until = time.time() + (end - time.time()) / (len(self.families) - i) * 1.5
            until = min(end, until)
            print(f"{time.time() - self.began:4.0f} s: times of {family}", flush=True)
            known = _row("time", family, "all cases")
            job = ("time", family, str(until - 5), json.dumps(floors))
            rows += self.command(known, "benchmarks.gpu.worker", *job, until=until)
        return rows


def _row(what: str, family: str, case: str) -> Row:
    empty = dict.fromkeys(("shape", "dtype", "pass"), "")
    return {"what": what, "family": family, "case": case, **empty, "contender": "xmkern", "status": "ok"}


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return (lines or ["no message"])[-1][:300]


def facts() -> Row:
    import torch

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found: Row = {"device": NO_GPU, "torch": torch.__version__, "triton": "none"}
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name(0)
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        pass
    return {**found, "commit": commit.stdout.strip() or "unknown"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_results"), help="where rows, table and plots go")
    parser.add_argument("--family", action="append", help="only this one (may be given again)")
    parser.add_argument("--seconds", type=float, default=460, help="that the run may take")
    parser.add_argument("--jobs", type=int, default=min(12, os.cpu_count() or 1), help="processes that check")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, tiny, to try the command itself")
    parser.add_argument("--static", action="store_true", help="without a GPU: write the table of compiled kernels anew")
    parser.add_argument("--tune", action="store_true", help="measure tiles, and write the chip's table")
    chosen = parser.parse_args()
    if chosen.static:
        from benchmarks.gpu import static

        return static.main(chosen.family or static.FAMILIES, jobs=min(2, chosen.jobs))
    if chosen.dry_run:
        os.environ["XMKERN_DRY_RUN"] = "1"
    from benchmarks.gpu.cases import FAMILIES

    unknown = set(chosen.family or ()) - set(FAMILIES)
    if unknown:
        parser.error(f"--family must be of {', '.join(FAMILIES)}, not {', '.join(sorted(unknown))}")
    known = facts()
    if not chosen.dry_run and known["device"] == NO_GPU:
        parser.error("torch sees no GPU here; --dry-run tries the command without one, --static compiles")
    if chosen.tune:
        from benchmarks.gpu import tune

        return tune.main(chosen.out, chosen.seconds, chosen.family)
    run = Run(chosen.family or list(FAMILIES), chosen.seconds, chosen.jobs, chosen.dry_run)
    floors = run.command({"what": "floors"}, "benchmarks.gpu.worker", "floors", until=run.began + 60)[0]
    if "copy" not in floors:
        raise SystemExit(f"the floors could not be measured, {floors.get('status')}")
    print(f"{time.time() - run.began:4.0f} s: checks", flush=True)
    if chosen.dry_run:
        known["device"], floors = NO_GPU, {}
    rows = run.checks()
    rows += run.times(floors)
    report.write(chosen.out, rows, known, floors)
    print((chosen.out / "gpu.md").read_text())
    print(f"{time.time() - run.began:4.0f} s: rows, table and plots are in {chosen.out}")
    return None
