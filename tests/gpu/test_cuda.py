"""CUDA files compile for each chip where nvcc is there, and spill nothing."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.compiled import SHARED_BYTES
from tests.interpreter import ROOT
from xmkern.ops.hamming import cuda

FILES = sorted((ROOT / "csrc").glob("**/*.cu"))
KERNELS = {"hamming.cu": 13}  # six layouts of the scan and of the distances, and the merge


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("source", FILES, ids=lambda path: path.name)
def test_it_compiles(source: Path, tmp_path: Path) -> None:
    known = subprocess.run(["nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    targets = [f"-gencode=arch=compute_{c},code=sm_{c}" for c in SHARED_BYTES if f"compute_{c}" in known]
    command = ["nvcc", "-std=c++17", "-O3", "-Icsrc", "-Xptxas=-v", "-Werror=all-warnings", *targets]
    command += ["-c", str(source), "-o", str(tmp_path / "compiled.o")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert len(frames) == KERNELS[source.name] * len(targets)
    assert set(frames) == {("0", "0", "0")}


def test_its_launcher_says_why_not() -> None:
    codes = torch.zeros(3, 8, dtype=torch.uint8)
    reason = cuda.refuses(codes, codes, 1) or ""
    assert "without its CUDA extension" in reason or "not on an NVIDIA GPU" in reason
