"""What can be known of the GPU kernels without a GPU: they compile for each chip, spill nothing, fit its shared memory,
and count bits with the chip's own instruction. Values are tested in the interpreter (test_triton.py)."""

import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from xmkern.ops.hamming import cuda
from xmkern.ops.hamming.triton import DISTANCE_TILE, MERGE_TILE, TopkTiles

ROOT = Path(__file__).parents[2]
SHARED_BYTES = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}  # what one block may have
chips = pytest.mark.parametrize("chip", SHARED_BYTES, ids="sm_{}".format)


@pytest.fixture(scope="module", autouse=True)
def compiler() -> None:
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET"):
        pytest.skip("the interpreter is on, so kernels are not compiled")


def assert_fits(kernel: Any, chip: int, tmp_path: Path, pointers: dict[str, str], integers: str, **constants: int):
    """Compiles with 64-bit sizes, the most that a launch can ask for in registers. -> PTX"""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = pointers | dict.fromkeys(integers.split(), "i64") | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Triton's own notices of defaults to come
        compiled = triton.compile(source, target=GPUTarget("cuda", chip, 32), options={"num_warps": 4})
    assert compiled.metadata.shared <= SHARED_BYTES[chip]

    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(binary)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # What does not fit in registers lies on the stack.
    assert re.findall(r"STACK:(\d+)", usage) == ["0"]
    assert re.findall(r"LOCAL:(\d+)", usage) == ["0"]
    return compiled.asm["ptx"]


def code_pointer(aligned: bool) -> str:
    return "*i32" if aligned else "*u8"


@chips
@pytest.mark.parametrize("width", [8, 33, 512])
def test_distance(chip: int, width: int, tmp_path: Path) -> None:
    from xmkern.ops.hamming.triton_kernels import distance_kernel

    aligned = width % 4 == 0
    codes = code_pointer(aligned)
    ptx = assert_fits(
        distance_kernel, chip, tmp_path, {"a": codes, "b": codes, "out": "*i32"}, "a_count b_count",
        WIDTH=width, ALIGNED=aligned, A_TILE=DISTANCE_TILE[0], B_TILE=DISTANCE_TILE[1],
    )  # fmt: skip
    assert "popc.b32" in ptx


# Each way of cutting the work (k to 64, k above) at its largest k, with codes as words and as bytes.
@chips
@pytest.mark.parametrize(("width", "k"), [(8, 64), (33, 64), (16, 256)])
def test_topk_of_spans(chip: int, width: int, k: int, tmp_path: Path) -> None:
    from xmkern.ops.hamming.triton_kernels import span_topk_kernel

    aligned, tiles = width % 4 == 0, TopkTiles.of(k)
    codes = code_pointer(aligned)
    ptx = assert_fits(
        span_topk_kernel, chip, tmp_path, {"queries": codes, "codes": codes, "found": "*i64"},
        "query_count code_count span spans",
        WIDTH=width, ALIGNED=aligned, Q_TILE=tiles.queries, N_TILE=tiles.codes, K=tiles.k,
    )  # fmt: skip
    assert "popc.b32" in ptx


@chips
def test_merge_of_spans(chip: int, tmp_path: Path) -> None:
    from xmkern.ops.hamming.triton_kernels import merge_spans_kernel

    assert_fits(
        merge_spans_kernel, chip, tmp_path, {"found": "*i64", "distances": "*i32", "indices": "*i64"}, "length k",
        TILE=MERGE_TILE, K=TopkTiles.of(256).k,
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_cuda_source(tmp_path: Path) -> None:
    known = subprocess.run(["nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    targets = [f"-gencode=arch=compute_{c},code=sm_{c}" for c in SHARED_BYTES if f"compute_{c}" in known]
    command = ["nvcc", "-std=c++17", "-O3", "-Icsrc", "-Xptxas=-v", "-Werror=all-warnings", *targets]
    command += ["-c", "csrc/hamming/hamming.cu", "-o", str(tmp_path / "hamming.o")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert len(frames) == 13 * len(targets)  # six layouts of the scan and of the distances, and the merge
    assert set(frames) == {("0", "0", "0")}


def test_cuda_launcher_says_why_not() -> None:
    codes = torch.zeros(3, 8, dtype=torch.uint8)
    reason = cuda.refuses(codes, codes, 1) or ""
    assert "without its CUDA extension" in reason or "not on an NVIDIA GPU" in reason
