"""The Triton launchers of attention against the reference, values and gradients, in Triton's interpreter.

See tests/interpreter.py.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests import interpreter
from tests.interpreter import DEVICE, THOROUGH
from xmkern.ops import gpu
from xmkern.ops.attention import reference, triton
from xmkern.ops.attention.op import attention
from xmkern.testing import assert_matches_reference

pytest.importorskip("triton")

UNBOUNDED = 2**62
CAUSAL = (2, -UNBOUNDED, 0)


def assert_right(
    B: int = 1,
    H: int = 1,
    Hk: int = 1,
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
    assert_right(B=2, H=2, Hk=2, D=40, Dv=24, merged=True)
    assert_right(H=6, Hk=2, L=7, S=70)  # the queries of a group packed into one tile
    assert_right(
        H=4, Hk=2, L=20, S=40, D=128, Dv=128, scale=0.09, graded=False
    )  # too many for a tile of this head size
    assert_right(B=2, H=3, Hk=1, L=70, S=65)
    assert_right(L=1, S=1, D=1, Dv=1)
    for empty in ({"B": 0}, {"L": 0}, {"S": 0}):
        assert_right(**empty)  # type: ignore[arg-type]
    if THOROUGH:
        assert_right(D=160, Dv=136, scale=0.08)


def check_dtypes_and_scales() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        assert_right(dtype=dtype, L=140, S=150, mask=CAUSAL)
        assert_right(H=2, Hk=2, dtype=dtype, L=20, D=72, Dv=80, merged=True, bias=torch.randn(1, 2, 109))
    for scale in (-0.3, 0.0):
        assert_right(scale=scale, mask=CAUSAL)


def check_masks() -> None:
    lengths = torch.tensor([0, 133])
    assert_right(L=150, S=190, mask=(2, -60, 30))
    assert_right(B=2, L=150, S=150, mask=(3, 0, *CAUSAL, 1), tensors=(lengths,))  # a prefix
    assert_right(L=150, S=150, mask=(2, 40, 90, *CAUSAL, 1))  # two intervals apart
    flags = torch.rand(2, 1, 150, 190) > 0.3
    assert_right(B=2, H=2, L=70, S=90, mask=(6, 0, *CAUSAL, 0), tensors=(flags[:, :, :70, :90],))
    assert_right(B=2, mask=(6, 0, 3, 1, 0), tensors=(flags[:1, :, :1, :90], lengths // 2))
    if THOROUGH:
        assert_right(B=2, H=2, L=150, S=190, mask=(3, 0), tensors=(lengths,))
        assert_right(B=2, H=2, L=150, S=190, mask=(6, 0, *CAUSAL, 0), tensors=(flags,))


def check_grids() -> None:
    row, column, near = (0, 0, -UNBOUNDED, UNBOUNDED), (-UNBOUNDED, UNBOUNDED, 0, 0), (-1, 1, -1, 1)
    for bounds in (row, column, near) if THOROUGH else (near,):
        assert_right(L=200, S=200, mask=(4, 40, 5, 32, *bounds, *CAUSAL, 0))
    assert_right(L=100, S=280, mask=(4, 0, 4, 64, 0, 0, -5, 70))  # tiles within a row, and past the end


def check_segments() -> None:
    packed = ids(64, 10, 70, 86)
    assert_right(L=230, S=230, mask=(5, 0, 0), tensors=(packed,))
    masks = (5, 0, 1, *CAUSAL, 0)
    assert_right(B=2, H=2, Hk=1, L=230, S=144, mask=masks, tensors=(packed.expand(2, -1), ids(74, 70)))


def check_biases() -> None:
    for shape in ((2, 1, 70, 90), (1, 1, 70, 90), (2, 1, 1, 90), (1, 1, 70, 1), (1, 1, 1, 1)):
        assert_right(B=2, bias=torch.randn(shape), mask=CAUSAL if shape[0] == 1 else ())
    assert_right(H=2, Hk=2, L=10, bias=torch.randn(1, 2, 1, 90).expand(1, 2, 10, 90))  # strides of 0
    hidden = torch.where(torch.rand(1, 1, 70, 90) < 0.9, -torch.inf, 1.0)
    hidden[:, :, 5] = -torch.inf
    assert_right(bias=hidden)


def check_toeplitz_biases() -> None:
    assert_right(H=2, Hk=2, bias=torch.randn(1, 2, 159), mask=CAUSAL)
    assert_right(B=2, L=70, S=140, bias=torch.randn(1, 1, 209))
    if THOROUGH:
        assert_right(B=3, H=2, Hk=2, L=150, S=330, bias=torch.randn(1, 1, 479))


def check_buckets() -> None:
    buckets = (torch.arange(90)[None] - torch.arange(70)[:, None]).clamp(-7, 8).int() + 7
    assert_right(B=2, bias=torch.randn(1, 1, 16), buckets=buckets)
    sparse = buckets[:8, :64] * 70  # more buckets than one program holds
    assert_right(L=8, S=64, bias=torch.randn(1, 1, 1100), buckets=torch.where(sparse < 1050, 1050, sparse))
    assert_right(B=2, L=20, bias=torch.randn(2, 1, 16), buckets=torch.zeros(90, 20).int().t(), mask=CAUSAL)


def check_dropout() -> None:
    assert_right(B=2, dropout_p=0.3, S=130)
    assert_right(dropout_p=0.9999, L=20)
    assert_right(dropout_p=0.2, D=128, mask=CAUSAL, bias=torch.randn(1, 1, 70, 90))  # narrow tiles
    assert_right(dropout_p=0.2, H=4, Hk=2, L=3, S=130)  # packed


def check_decoding() -> None:
    """Few queries against many keys: the keys are cut among programs."""
    assert triton._splits(1, 16, 4) > 1
    assert_right(L=1, S=2000, graded=False)
    lengths = torch.tensor([1490])
    assert_right(
        H=6, Hk=1, L=2, S=1600, mask=(2, -UNBOUNDED, 1400, 3, 0, 0), tensors=(lengths,), dropout_p=0.2,
        bias=torch.randn(1, 6, 1601), graded=False, Dv=20,
    )  # fmt: skip
    assert_right(L=2, S=2000, mask=(2, 500, 520), graded=False)  # most programs find nothing
    assert_right(L=2, S=2000, mask=(2, 5000, 6000), graded=False)  # all do


def check_nothing_leaks_from_padding() -> None:
    """NaN past a sample's length, or in tiles that a mask empties, reaches nobody."""
    query, key, value = (torch.randn(2, 1, 200, 16, device=DEVICE).requires_grad_() for _ in range(3))
    lengths = torch.tensor([90, 200], device=DEVICE)
    flags = torch.rand(2, 1, 200, 200, device=DEVICE) < 0.5
    flags[0, :, :, 90:] = False
    with torch.no_grad():
        for x in (key, value):
            x[0, :, 90:] = torch.nan
    for mask, tensors in (((3, 0, *CAUSAL, 0), (lengths,)), ((6, 0), (flags,))):
        query.grad = key.grad = value.grad = None
        out, lse = attention(query, key, value, mask, tensors, backend="triton")
        (out.sum() + lse.sum()).backward()
        for x in (out, lse, query.grad, key.grad, value.grad):
            assert x.isfinite().all()

    packed = ids(128, 72).to(DEVICE)
    spoiled = torch.randn(1, 1, 200, 16, device=DEVICE)
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
    apart = 2**31 // 3
    rows = torch.empty(4 * apart, dtype=torch.float16, device=DEVICE)  # memory that is never touched but for four rows
    key = rows.as_strided((1, 1, 4, 16), (0, 0, apart, 1))
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


CHECKS = interpreter.checks(globals())


@pytest.mark.parametrize("first", range(0, len(CHECKS), 4))
def test_in_the_interpreter(first: int) -> None:
    interpreter.run(__name__, list(CHECKS)[first : first + 4])


def test_import_leaves_triton_alone() -> None:
    interpreter.assert_import_leaves_triton_alone("xmkern.ops.attention.triton")


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
    small = gpu.Chip(89, 99 << 10, 100)
    monkeypatch.setattr(gpu, "chip_of", lambda device: small)
    assert "too little shared memory" in refusal(torch.randn(1, 1, 3, 200))
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    assert "not installed" in refusal(x)


if __name__ == "__main__":
    interpreter.main(CHECKS)
