"""Contrastive losses against eager PyTorch: the time and the memory of a training step's forward and backward."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import xmkern.functional as xf
from benchmarks.measure import RESULTS, alternate, write_rows
from xmkern.testing import assert_matches_reference

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIZES = (1024, 4096, 8192)
DEPTH = 512
_TEACHER_SCALE = 30.0


def _eager_info_nce(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits = scale.to(x.dtype) * x @ y.T
    labels = torch.arange(len(x))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def _eager_sigmoid(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits = scale.to(x.dtype) * x @ y.T + bias.to(x.dtype)
    signs = 2 * torch.eye(len(x), dtype=x.dtype) - 1
    return -F.logsigmoid(signs * logits).sum() / len(x)


def _eager_distillation(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits, taught = scale.to(x.dtype) * x @ y.T, _TEACHER_SCALE * y.detach() @ x.detach().T
    parts = ((z.log_softmax(1), t.log_softmax(1)) for z, t in ((logits, taught), (logits.T, taught.T)))
    return sum(F.kl_div(*both, log_target=True, reduction="batchmean") for both in parts) / 2


def _info_nce(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, backend: str = "auto") -> Tensor:
    return xf.info_nce(x, y, scale, backend=backend)


def _sigmoid(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, backend: str = "auto") -> Tensor:
    return xf.sigmoid_contrastive(x, y, scale, bias, backend=backend)


def _distillation(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, backend: str = "auto") -> Tensor:
    return xf.distillation(x, y, scale, y.detach(), x.detach(), _TEACHER_SCALE, backend=backend)


LOSSES: dict[str, dict[str, Callable[..., Tensor]]] = {
    "InfoNCE (CLIP)": {"xmkern": _info_nce, "eager": _eager_info_nce},
    "sigmoid (SigLIP)": {"xmkern": _sigmoid, "eager": _eager_sigmoid},
    "distillation (KL)": {"xmkern": _distillation, "eager": _eager_distillation},
}
# What any implementation has to do: a product for the logits of each matrix, and two for a student's gradients.
PRODUCTS = {"InfoNCE (CLIP)": 3, "sigmoid (SigLIP)": 3, "distillation (KL)": 4}


def _inputs(size: int, dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(0)
    x, y = (F.normalize(torch.randn(size, DEPTH), dim=1).to(dtype) for _ in range(2))
    inputs = {"x": x, "y": y, "scale": torch.tensor(50.0), "bias": torch.tensor(-10.0)}
    return {name: value.requires_grad_() for name, value in inputs.items()}


def _step(loss: Callable[..., Tensor], inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(**inputs), list(inputs.values()), allow_unused=True)


def rows() -> list[dict[str, Any]]:
    out = []
    for dtype_name, dtype in DTYPES.items():
        for name, contenders in LOSSES.items():
            few = _inputs(1024, dtype)
            ours = contenders["xmkern"]
            assert_matches_reference(partial(ours, backend="cpu"), few, reference=partial(ours, backend="reference"))
            for size in SIZES:
                inputs = _inputs(size, dtype)
                calls = {who: partial(_step, loss, inputs) for who, loss in contenders.items()}
                times = alternate(calls, seconds=2.0, least=2)
                useful = 2 * PRODUCTS[name] * size**2 * DEPTH / 1e9
                out.append(
                    {
                        "loss": name,
                        "B": size,
                        "dtype": dtype_name,
                        **{f"{who}_ms": round(times[who] * 1e3, 2) for who in times},
                        "ratio": round(times["eager"] / times["xmkern"], 2),
                        **{f"{who}_gflops": round(useful / times[who], 1) for who in times},
                    }
                )
                print(f"{dtype_name:9} {name:17} B = {size:5} {out[-1]['ratio']:.2f}x", flush=True)
    return out


# Memory is measured in a process of its own, by the system's own count of its pages.
MEASURED = (("eager", 8192, "float32"), ("xmkern", 8192, "float32"), ("eager", 8192, "bfloat16"))
MEASURED += (("xmkern", 8192, "bfloat16"), ("xmkern", 65536, "float32"))


def memory_rows() -> list[dict[str, Any]]:
    out = []
    for who, size, dtype in MEASURED:
        command = [sys.executable, "-m", "benchmarks.contrastive", who, str(size), dtype]
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=RESULTS.parent.parent)
        out.append({"contender": who, "B": size, "dtype": dtype, **json.loads(result.stdout)})
        print(out[-1], flush=True)
    return out


def measure_memory(who: str, size: int, dtype: str) -> dict[str, float]:
    """Megabytes above those before the step, less the gradients that it returns; and of the whole process."""
    loss = LOSSES["InfoNCE (CLIP)"][who]
    _step(loss, _inputs(64, DTYPES[dtype]))  # what a first call loads is nobody's
    inputs = _inputs(size, DTYPES[dtype])
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = _status("VmRSS")
    start = time.perf_counter()
    grads = _step(loss, inputs)
    seconds = time.perf_counter() - start
    returned = sum(grad.nbytes for grad in grads if grad is not None) / 2**20
    return {
        "extra_mb": round(_status("VmHWM") - before - returned, 1),
        "process_mb": round(_status("VmHWM"), 1),
        "seconds": round(seconds, 2),
    }


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 2**10


def _mean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def table(measured: list[dict[str, Any]]) -> str:
    """A line a loss and batch, a column a dtype: our time, and how many times eager PyTorch's that is."""
    lines = [
        f"| forward + backward, D = {DEPTH} | B | " + " | ".join(DTYPES) + " |",
        "| --- | ---: |" + " ---: |" * len(DTYPES),
    ]
    found = {(r["loss"], int(r["B"]), r["dtype"]): r for r in measured}
    for loss in LOSSES:
        for size in SIZES:
            chosen = [found[loss, size, dtype] for dtype in DTYPES]
            cells = [f"{float(r['xmkern_ms']):.0f} ms **{float(r['ratio']):.1f}x**" for r in chosen]
            lines.append(f"| {loss} | {size:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def memory_table(measured: list[dict[str, Any]]) -> str:
    lines = ["| InfoNCE, D = 512 | B | extra memory | whole process |", "| --- | ---: | ---: | ---: |"]
    for r in measured:
        cells = f"{float(r['extra_mb']):,.0f} MB | {float(r['process_mb']):,.0f} MB"
        lines.append(f"| {r['contender']}, {r['dtype']} | {int(r['B']):,} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    memory = memory_rows()
    print(memory_table(memory))
    write_rows("contrastive_memory", memory)
    measured = rows()
    print(table(measured))
    path = write_rows("contrastive", measured)
    print(f"\nrows in {path.relative_to(RESULTS.parent.parent)}")


if __name__ == "__main__":
    print(json.dumps(measure_memory(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
