"""The benchmark of a GPU, as far as it can run without one: dry, on the CPU, at tiny sizes."""

import csv
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import xmkern.functional as xf
from benchmarks.gpu import report
from benchmarks.gpu.cases import FAMILIES, peers
from benchmarks.gpu.run import Run
from tests.interpreter import ROOT
from xmkern import masks

SHAPE = {"family": "f", "case": "c", "shape": "1 x 2", "dtype": "float32", "pass": "forward"}


def python(*args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, check=False, **kwargs)


def test_a_dry_run_writes_rows_a_table_and_plots(tmp_path: Path) -> None:
    chosen = ("--dry-run", "--seconds", "3000", "--family", "diffusion")
    done = python("-m", "benchmarks", "gpu", "--out", str(tmp_path), *chosen)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "gpu.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row for row in rows if row["status"] != "ok"] == []
    timed = [row for row in rows if row["what"] == "time"]
    assert all(float(row["ms"]) > 0 for row in timed)
    assert {row["what"] for row in rows} == {"check", "compared", "time"}
    assert "no figure here is a measurement" in (tmp_path / "gpu.md").read_text()
    assert [path.name for path in tmp_path.glob("*.png")] == ["gpu_diffusion.png"]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_all_who_compute_attention_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "DRY", True)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 45, 16).unbind()
    bias = torch.randn(1, 2, 45, 45)
    mask = masks.prefix(torch.tensor([11]))
    sees = lambda L: lambda b, h, i, j: (j <= i) | (j < L // 4)  # noqa: E731
    causal = peers.everyone(True, lambda L: lambda b, h, i, j: i >= j, True, True, 1)
    masked = peers.everyone(False, sees, False, True, 1)
    biased = peers.everyone(False, None, False, True, 1)
    seen = peers.visible(mask, q, k)
    for calls, rest, ours in (
        (causal, {}, xf.attention(q, k, v, masks.causal())),
        (masked, {"seen": seen}, xf.attention(q, k, v, mask)),
        (biased, {"bias": bias}, xf.attention(q, k, v, bias=bias)),
    ):
        assert set(calls) == {"sdpa math", "eager", "flex"}
        for name, call in calls.items():
            torch.testing.assert_close(call(q, k, v, **rest), ours, msg=name)


def test_all_cases_can_be_made() -> None:
    code = "from benchmarks.gpu.cases import cases, FAMILIES\n"
    code += (
        "for f in FAMILIES:\n    for c in cases(f): print(f, c.name, c.shape, c.dtype, next(iter(c.calls)), sep='|')"
    )
    done = python("-c", code, env={"XMKERN_DRY_RUN": "1", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(set(lines)) == len(lines)
    assert {line.partition("|")[0] for line in lines} == set(FAMILIES)
    assert all(line.endswith("|xmkern") for line in lines)


def test_without_a_gpu_the_command_says_so() -> None:
    done = python("-m", "benchmarks", "gpu", env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2
    assert "torch sees no GPU here" in done.stderr
    done = python("-m", "benchmarks", "gpu", "--family", "sorting", "--dry-run")
    assert "--family must be of attention" in done.stderr


@pytest.fixture
def run() -> Run:
    return Run(["attention"], budget=60, jobs=1, dry=True)


def test_what_fails_is_a_row(run: Run) -> None:
    rows = run.command({"what": "check"}, "benchmarks.gpu.worker", "dance", until=time.time() + 60)
    assert rows == [{"what": "check", "status": "failed: no job 'dance'"}]


def test_what_takes_too_long_is_a_row(run: Run) -> None:
    assert run.command({}, "http.server", "0", until=time.time() + 1.5) == [{"status": "skipped: out of time"}]
    assert run.command({}, "http.server", "0", until=time.time()) == [{"status": "skipped: out of time"}]


def row(contender: str, **rest: Any) -> dict[str, Any]:
    return {"what": "time", **SHAPE, "contender": contender, "status": "ok", "floor_ms": 1.0, "floor": "copy", **rest}


def test_the_table_has_the_ratio_to_the_best_of_the_others() -> None:
    rows = [row("xmkern", ms=2.0, graph_ms=1.9), row("a", ms=5.0), row("b", ms=3.0), row("c", status="failed: x")]
    text = report.markdown(rows, {"device": "d"}, {"copy": 3e12})
    assert "| c | 1 x 2 | float32 | forward | 2.000 | 1.900 | 50% (copy) | b, 3.000 ms | 1.50 |" in text
    assert "f, c, 1 x 2, float32, forward, c: time failed: x" in text
    assert "copy 3 T/s" in text


def test_wrong_values_have_no_ratio() -> None:
    bad = {"what": "check", **SHAPE, "contender": "xmkern", "status": "failed: error 1"}
    text = report.markdown([bad, row("xmkern", ms=2.0), row("a", ms=5.0)], {}, {})
    assert "wrong values" in text
    assert "2.50" not in text


MISSING = """
import sys, warnings
sys.modules["xmkern._native"] = None
warnings.simplefilter("ignore")
import torch, xmkern, xmkern.functional as xf
assert xmkern.cpu_capability() is None
q = torch.randn(1, 2, 40, 16)
ours, plain = (xf.attention(q, q, q, backend=b) for b in ("triton", "reference"))
torch.testing.assert_close(ours, plain)
torch.testing.assert_close(xf.attention(q, q, q), plain)
codes = torch.randint(0, 256, (50, 8), dtype=torch.uint8)
for a, b in zip(*(xf.hamming_topk(codes[:3], codes, 5, backend=b) for b in ("triton", "reference"))):
    assert a.equal(b)
import benchmarks.gpu.worker, benchmarks.gpu.tune
"""


def test_the_native_extension_is_not_needed() -> None:
    pytest.importorskip("triton")
    done = python("-c", MISSING, env={"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
