"""What is compiled and interpreted is all that there is: kernels, rows of the tuning tables, kinds of a family."""

import os
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.gpu.compiled import SHARED_BYTES, launches_go_to
from benchmarks.gpu.launches import FAMILIES, launches
from tests.gpu.kernels import Name, all_kernels, name_of, recorder
from tests.interpreter import ROOT
from xmkern._functional.epilogue import _ACTIVATIONS as ACTIVATIONS
from xmkern.ops import tuning
from xmkern.ops.attention.program import Code
from xmkern.ops.contrastive.reference import KINDS
from xmkern.ops.diffusion.triton import _VARIANCES as VARIANCES

pytest.importorskip("triton")

Recorded = list[tuple[Name, dict[str, Any]]]


@pytest.fixture(scope="module")
def recorded() -> dict[int, tuple[Recorded, set[tuple[str, int]]]]:
    """What the listed calls launch, and the rows (kernel, number) of the chip's table that they take; by chip."""
    found, before = {}, tuning.chosen
    for chip in SHARED_BYTES:
        calls: Recorded = []
        rows: set[tuple[str, int]] = set()

        def chosen(kernel: str, which: Any, rows: set[tuple[str, int]] = rows, **call: int) -> tuning.Row:
            row = before(kernel, which, **call)
            rows.add((kernel, next(i for i, r in enumerate(tuning.table(tuning.nearest(which))[kernel]) if r is row)))
            return row

        with pytest.MonkeyPatch.context() as patch, launches_go_to(recorder(calls), chip):
            patch.setattr(tuning, "chosen", chosen)
            for family in FAMILIES:
                for launch in launches(family, chip):
                    launch.call()
        found[chip] = calls, rows
    return found


def test_every_kernel_is_compiled(recorded: Any) -> None:
    for chip, (calls, _) in recorded.items():
        assert {name for name, _ in calls} == all_kernels(), chip


@pytest.mark.parametrize("chip", SHARED_BYTES, ids="sm_{}".format)
def test_every_row_of_a_tuning_table_is_compiled(recorded: Any, chip: int) -> None:
    there = {(kernel, i) for kernel, rows in tuning.table(f"sm_{chip}").items() for i in range(len(rows))}
    assert recorded[chip][1] == there


def test_every_kind_is_compiled(recorded: Any) -> None:
    """Of what a kernel is compiled for, all that the package enumerates."""
    from xmkern.ops.attention import triton_bias, triton_forward, triton_scores
    from xmkern.ops.contrastive import triton_forward as contrastive
    from xmkern.ops.epilogue import triton_elements

    calls = recorded[90][0]

    def of(kernel: Any, constant: str) -> set[Any]:
        return {constants[constant] for name, constants in calls if name == name_of(kernel)}

    forward = triton_forward.forward_kernel
    assert {code for program in of(forward, "MASK") for code in program[::3]} == set(Code)
    biases = (triton_scores.NO_BIAS, triton_scores.OVER_KEYS, triton_scores.OVER_QUERIES, triton_scores.OVER_BOTH)
    assert of(forward, "BIAS") == {b.value for b in (*biases, triton_scores.BUCKETED)}
    for flag in ("DROPOUT", "LISTED", "PACKED", "SPLIT"):
        assert of(forward, flag) == {True, False}, flag
    forms = (triton_bias.KEEP_TILE, triton_bias.SUM_QUERIES, triton_bias.SUM_KEYS, triton_bias.KEEP_DIAGONAL)
    assert of(triton_bias.grad_bias_kernel, "FORM") == {f.value for f in (*forms, triton_bias.SUM_BUCKETS)}
    assert of(contrastive.reduce_kernel, "KIND") == set(KINDS)
    assert of(triton_elements.activation_kernel, "ACTIVATION") == set(ACTIVATIONS)
    from xmkern.ops.diffusion import triton_kernels as diffusion

    assert of(diffusion.step_kernel, "VARIANCE") == set(VARIANCES.values())
    assert of(diffusion.step_kernel, "NOISE") == {0, 1, 2}


def test_every_kernel_is_run_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.gpu.interpreted"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {tuple(line.split()) for line in done.stdout.splitlines()}
    assert found == all_kernels()
