"""The Triton launchers against the reference, in Triton's interpreter.

See tests/interpreter.py.
"""

import pytest
import torch

from tests import interpreter
from xmkern.ops.hamming import reference, triton

pytest.importorskip("triton")


def random_codes(count: int, width: int, values: int = 256) -> torch.Tensor:
    """With fewer values, more ties."""
    return torch.randint(0, values, (count, width), dtype=torch.uint8)


def assert_topk(queries: torch.Tensor, codes: torch.Tensor, k: int) -> None:
    assert triton.refuses(queries, codes, k) is None
    found = triton.hamming_topk(queries, codes, k)
    for got, want in zip(found, reference.hamming_topk(queries, codes, k), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def check_distance() -> None:
    for width, a_count, b_count in [
        (1, 7, 3), (3, 1, 130), (8, 17, 129), (16, 2, 300), (33, 5, 7), (512, 1, 2), (8, 0, 7), (8, 7, 0),
    ]:  # fmt: skip
        a, b = random_codes(a_count, width), random_codes(b_count, width)
        got = triton.hamming_distance(a, b)
        torch.testing.assert_close(got, reference.hamming_distance(a, b), rtol=0, atol=0)


def check_topk_widths() -> None:
    for width, count, k in [(1, 7, 1), (3, 300, 5), (16, 1000, 1), (33, 7, 5), (512, 2, 1)]:
        assert_topk(random_codes(2, width), random_codes(count, width), k)


def check_topk_spans_and_ties() -> None:
    """Several spans of several tiles, a handful of distinct codes: every place is settled by the index."""
    assert_topk(random_codes(2, 8, values=2), random_codes(2100, 8, values=2), 5)
    assert_topk(random_codes(1, 1, values=1), random_codes(1100, 1, values=1), 3)


def check_topk_padding() -> None:
    assert_topk(random_codes(1, 8), random_codes(7, 8), 9)
    assert_topk(random_codes(1, 8), random_codes(0, 8), 2)
    assert_topk(random_codes(0, 8), random_codes(7, 8), 2)


def check_topk_large_k() -> None:
    assert_topk(random_codes(1, 4), random_codes(600, 4), 100)


def check_odd_memory() -> None:
    """A slice that starts at an odd byte cannot be read as words; a lone row of odd stride can."""
    codes = random_codes(1, 8 * 50 + 1)[0, 1:].view(50, 8)
    assert codes.data_ptr() % 4
    assert_topk(random_codes(1, 8), codes, 2)
    assert_topk(random_codes(1, 16)[:, ::2], codes, 2)
    assert_topk(random_codes(3, 9)[:1, :8], random_codes(5, 8), 2)
    in_numpy = torch.from_numpy(random_codes(1, 44).numpy()[0, 1:])  # a storage at an odd address
    assert_topk(in_numpy[3:11].view(1, 8), random_codes(5, 8), 2)


CHECKS = interpreter.checks(globals())


@pytest.mark.parametrize("name", CHECKS)
def test_in_the_interpreter(name: str) -> None:
    interpreter.run(__name__, [name])


def test_import_leaves_triton_alone() -> None:
    interpreter.assert_import_leaves_triton_alone("xmkern.ops.hamming.triton")


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = random_codes(3, 8)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "not on a CUDA GPU" in (triton.refuses(codes, codes) or "")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton.refuses(codes, codes, triton.MAX_K) is None
    assert "k is greater" in (triton.refuses(codes, codes, triton.MAX_K + 1) or "")
    assert "longer than" in (triton.refuses(random_codes(1, 513), random_codes(1, 513)) or "")
    monkeypatch.setattr(triton.importlib.util, "find_spec", lambda name: None)
    assert "not installed" in (triton.refuses(codes, codes) or "")


if __name__ == "__main__":
    interpreter.main(CHECKS)
