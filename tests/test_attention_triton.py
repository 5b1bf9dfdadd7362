"""The Triton launchers of attention against the reference, values and gradients, in Triton's interpreter.

The interpreter must be on before Triton is imported, so this file runs itself: each test starts it as a script with
the name of one of its ``check_`` functions. On a machine with a GPU, ``python tests/test_attention_triton.py`` runs
all of them there.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from xmkern.ops.attention import reference, triton
from xmkern.ops.attention.op import attention
from xmkern.testing import assert_matches_reference

pytest.importorskip("triton")

ROOT = Path(__file__).parents[1]
INTERPRETED = bool(os.environ.get("TRITON_INTERPRET"))
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
UNBOUNDED = 2**62
CAUSAL = (2, -UNBOUNDED, 0)


def assert_right(
    B: int = 2,
    H: int = 2,
    Hk: int = 2,
    L: int = 70,
    S: int = 90,
    D: int = 16,
    Dv: int = 16,
    dtype: torch.dtype = torch.float32,
    merged: bool = False,
    mask: tuple[int, ...] = (),
    tensors: tuple[Tensor, ...] = (),
    bias: Tensor | None = None,
    buckets: Tensor | None = None,
    scale: float = 0.3,
    dropout_p: float = 0.0,
    graded: bool = True,
) -> None:
    """out, lse and all gradients. merged: heads lie innermost, as a projection leaves them."""

    def draw(heads: int, length: int, depth: int) -> Tensor:
        x = torch.randn(B, length, heads, depth) if merged else torch.randn(B, heads, length, depth)
        x = x.to(DEVICE, dtype)
        return x.transpose(1, 2) if merged else x

    inputs: dict[str, Any] = {"query": draw(H, L, D), "key": draw(Hk, S, D), "value": draw(Hk, S, Dv)}
    if bias is not None:
        inputs["bias"] = bias.to(DEVICE)
    for x in inputs.values():
        x.requires_grad_(graded)
    options: dict[str, Any] = {
        "mask": mask,
        "mask_tensors": tuple(t.to(DEVICE) for t in tensors),
        "buckets": None if buckets is None else buckets.to(DEVICE),
        "scale": scale,
        "dropout_p": dropout_p,
        "seed": torch.tensor([0x123456789ABCDEF], device=DEVICE) if dropout_p else None,
    }
    assert_matches_reference(
        lambda **given: attention(**given, **options, backend="triton"),
        inputs,
        reference=lambda **given: attention(**given, **options, backend="reference"),
    )


def ids(*lengths: int) -> Tensor:
    """int64 [1, sum]: 0 as often as the first length says, and so on"""
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]


def check_shapes() -> None:
    assert_right(D=40, Dv=24, merged=True)
    assert_right(H=6, Hk=2, L=7, S=70)  # the queries of a group packed into one tile
    assert_right(B=1, H=4, Hk=1, L=70, S=65)
    assert_right(B=1, H=1, Hk=1, L=1, S=1, D=1, Dv=1)
    assert_right(B=1, D=160, Dv=136)
    for empty in ({"B": 0}, {"L": 0}, {"S": 0}):
        assert_right(**empty)  # type: ignore[arg-type]


def check_dtypes() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        assert_right(dtype=dtype, L=140, S=150, mask=CAUSAL)
        assert_right(dtype=dtype, D=72, Dv=80, merged=True, bias=torch.randn(1, 2, 159), B=1)


def check_scales() -> None:
    for scale in (-0.3, 0.0):
        assert_right(scale=scale, mask=CAUSAL)


def check_masks() -> None:
    lengths = torch.tensor([0, 133])
    assert_right(L=150, S=190, mask=(2, -60, 30))
    assert_right(L=150, S=190, mask=(3, 0), tensors=(lengths,))
    assert_right(L=150, S=150, mask=(3, 0, *CAUSAL, 1), tensors=(lengths,))  # a prefix
    assert_right(L=150, S=150, mask=(2, 40, 90, *CAUSAL, 1), B=1)  # two intervals apart
    dense = torch.rand(2, 1, 150, 190) > 0.3
    assert_right(L=150, S=190, mask=(6, 0, *CAUSAL, 0), tensors=(dense,))
    assert_right(L=150, S=190, mask=(6, 0, 3, 1, 0), tensors=(torch.rand(1, 2, 1, 190) > 0.3, lengths))


def check_grids() -> None:
    for bounds in ((0, 0, -UNBOUNDED, UNBOUNDED), (-UNBOUNDED, UNBOUNDED, 0, 0), (-1, 1, -1, 1)):
        assert_right(B=1, L=300, S=300, mask=(4, 40, 8, 32, *bounds, *CAUSAL, 0))
    assert_right(B=1, H=1, Hk=1, L=300, S=280, mask=(4, 0, 4, 64, 0, 0, -5, 70))  # tiles within a row, and past the end


def check_segments() -> None:
    packed = ids(64, 10, 70, 156)
    assert_right(L=300, S=300, mask=(5, 0, 0), tensors=(packed,))
    assert_right(L=300, S=144, mask=(5, 0, 1, *CAUSAL, 0), tensors=(packed.expand(2, -1), ids(74, 70)), H=4, Hk=2)


def check_biases() -> None:
    for shape in ((2, 2, 70, 90), (1, 2, 70, 90), (2, 1, 1, 90), (1, 1, 70, 1), (1, 2, 1, 1), (1, 1, 159), (2, 2, 159)):
        assert_right(bias=torch.randn(shape), mask=CAUSAL if shape[0] == 1 else ())
    assert_right(B=3, L=150, S=330, bias=torch.randn(1, 1, 479))
    assert_right(H=4, bias=torch.randn(1, 4, 1, 90).expand(2, 4, 70, 90))  # strides of 0
    hidden = torch.where(torch.rand(1, 2, 70, 90) < 0.9, -torch.inf, 1.0)
    hidden[:, :, 5] = -torch.inf
    assert_right(bias=hidden)


def check_buckets() -> None:
    buckets = (torch.arange(90)[None] - torch.arange(70)[:, None]).clamp(-15, 16).int() + 15
    assert_right(bias=torch.randn(1, 2, 32), buckets=buckets)
    assert_right(B=1, bias=torch.randn(1, 1, 1100), buckets=buckets * 33)  # more buckets than one program holds
    assert_right(bias=torch.randn(2, 1, 32), buckets=torch.zeros(90, 70).int().t(), mask=CAUSAL)


def check_dropout() -> None:
    assert_right(dropout_p=0.3, S=200)
    assert_right(dropout_p=0.9999, B=1)
    assert_right(dropout_p=0.2, B=1, D=128, mask=CAUSAL, bias=torch.randn(1, 1, 70, 90))  # narrow tiles
    assert_right(dropout_p=0.2, H=4, Hk=2, L=3, S=200)  # packed


def check_decoding() -> None:
    """Few queries against many keys: the keys are cut among programs."""
    assert triton._splits(1, 16, 4) > 1
    assert_right(B=1, H=1, Hk=1, L=1, S=2000, graded=False)
    lengths = torch.tensor([1490])
    assert_right(
        B=1, H=6, Hk=1, L=2, S=1600, mask=(2, -UNBOUNDED, 1400, 3, 0, 0), tensors=(lengths,), dropout_p=0.2,
        bias=torch.randn(1, 6, 1601), graded=False, Dv=20,
    )  # fmt: skip
    assert_right(B=1, H=1, Hk=1, L=2, S=2000, mask=(2, 500, 520), graded=False)  # most programs find nothing
    assert_right(B=1, H=1, Hk=1, L=2, S=2000, mask=(2, 5000, 6000), graded=False)  # all do


def check_nothing_leaks_from_padding() -> None:
    """NaN past a sample's length, or in tiles that a mask empties, reaches nobody."""
    query, key, value = (torch.randn(2, 1, 300, 16, device=DEVICE).requires_grad_() for _ in range(3))
    lengths = torch.tensor([90, 300], device=DEVICE)
    with torch.no_grad():
        for x in (key, value):
            x[0, :, 90:] = torch.nan
    out, lse = attention(query, key, value, (3, 0, *CAUSAL, 0), (lengths,), backend="triton")
    (out.sum() + lse.sum()).backward()
    for x in (out, lse, query.grad, key.grad, value.grad):
        assert x.isfinite().all()

    packed = ids(128, 172).to(DEVICE)
    spoiled = torch.randn(1, 1, 300, 16, device=DEVICE)
    spoiled[:, :, 128:] = torch.nan
    for mask, tensors in (((5, 0, 0), (packed,)), (CAUSAL, ())):
        out, _ = attention(query[1:], spoiled, spoiled, mask, tensors, backend="triton")
        assert out[:, :, :128].isfinite().all()
        assert out[:, :, 128:].isnan().all()


def check_nan_is_kept() -> None:
    query, key, value = (torch.randn(1, 1, 40, 16, device=DEVICE) for _ in range(3))
    query[0, 0, 3, 5] = torch.nan
    out, lse = attention(query, key, value, backend="triton")
    wrong = torch.zeros(40, dtype=torch.bool)
    wrong[3] = True
    assert torch.equal(out[0, 0].isnan().all(1).cpu(), wrong)
    assert torch.equal(lse[0, 0].isnan().cpu(), wrong)


def check_huge_strides() -> None:
    """Rows further apart than 32 bits count."""
    rows = torch.empty(3 * 2**31 // 4 * 4 + 16, dtype=torch.float16, device=DEVICE)  # never touched but for a few rows
    key = rows.as_strided((1, 1, 4, 16), (0, 0, 2**31 // 4 * 6, 1))
    key.copy_(torch.randn(1, 1, 4, 16))
    query, value = torch.randn(2, 1, 1, 5, 16, device=DEVICE, dtype=torch.float16)
    got = attention(query, key, key, backend="triton")
    want = attention(query, key.contiguous(), key.contiguous(), backend="reference")
    torch.testing.assert_close(got, want, rtol=2e-3, atol=2e-3)
    swapped = attention(key, query, value, backend="triton")
    torch.testing.assert_close(swapped, attention(key.contiguous(), query, value, backend="triton"), rtol=0, atol=0)


def check_same_bits_in_any_batch() -> None:
    """A sample's dropout and sums do not depend on what stands beside it."""
    query, key, value = (torch.randn(2, 2, 70, 16, device=DEVICE) for _ in range(3))
    seed = torch.tensor([7], device=DEVICE)
    both = attention(query, key, value, CAUSAL, dropout_p=0.5, seed=seed, backend="triton")
    first = attention(query[:1], key[:1], value[:1], CAUSAL, dropout_p=0.5, seed=seed, backend="triton")
    for got, want in zip(first, both, strict=True):
        torch.testing.assert_close(got, want[:1], rtol=0, atol=0)


CHECKS = {name: check for name, check in list(globals().items()) if name.startswith("check_")}


@pytest.mark.parametrize("name", CHECKS)
def test_in_the_interpreter(name: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, name], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_import_leaves_triton_alone() -> None:
    code = "import sys, torch; had = 'triton' in sys.modules; import xmkern.ops.attention.triton; "
    code += "assert had or 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(x: Tensor) -> str:
        return triton.refuses(x, x, x, [], [], None, None, 1.0, 0.0, None) or ""

    x = torch.randn(1, 1, 3, 8)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "not on a CUDA GPU" in refusal(x)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert refusal(x) == ""
    assert "not torch.float64" in refusal(x.double())
    assert "up to 256 numbers, not 257" in refusal(torch.randn(1, 1, 3, 257))
    assert "or more queries or keys" in refusal(x[:, :, :1].expand(1, 1, triton.FAR, 8))
    out, lse = reference.attention(x, x, x, [], [], None, None, 1.0, 0.0, None)
    assert triton.refuses(out, None, x, x, x, out, lse, [], [], None, None, 1.0, 0.0, None, False) is None
    small = triton.arguments.Chip(89, 99 << 10, 100)
    monkeypatch.setattr(triton.arguments, "chip_of", lambda device: small)
    assert "too little shared memory" in refusal(torch.randn(1, 1, 3, 200))
    monkeypatch.setattr(triton.importlib.util, "find_spec", lambda name: None)
    assert "not installed" in refusal(x)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or CHECKS:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        CHECKS[wanted]()
