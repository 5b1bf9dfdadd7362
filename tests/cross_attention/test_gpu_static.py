"""Without a GPU: the kernels that the launcher asks for compile and fit. Values: test_triton.py."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compiled import MATRIX_UNITS, THOROUGH, compiler
from xmkern.ops.cross_attention import triton as launcher


@pytest.fixture
def compile_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    return compiler(monkeypatch, tmp_path)


def run(dtype: torch.dtype) -> None:
    """GLIDE's text beside its image, forward and backward."""
    query, text, image = (torch.empty(2, 8, n, 64, dtype=dtype) for n in (256, 128, 256))
    keys, masks = [text, image], [2, 1, 3, 0, 0, 0]
    rest = ([2], masks, [torch.zeros(2, dtype=torch.int64)], [None] * 2, [None] * 2, [0.125], 0.0, None)
    out, lse = launcher.cross_attention([query], keys, keys, *rest)
    launcher.cross_attention_backward([out], [None], [query], keys, keys, [out], [lse], *rest, [False, False])


@pytest.mark.parametrize(
    ("chip", "dtype"),
    [(90, torch.bfloat16), *(pytest.param(c, torch.bfloat16, marks=THOROUGH) for c in (80, 86, 100))],
)
def test_kernels_of_two_sources(compile_for: Any, chip: int, dtype: torch.dtype) -> None:
    kernels = compile_for(chip, lambda: run(dtype))
    names = [kernel.name for kernel in kernels]
    assert names.count("forward_kernel") == 2
    assert names.count("merge_kernel") == 1
    assert names.count("grad_query_kernel") == names.count("grad_key_value_kernel") == 2
    for kernel in kernels:
        kernel.assert_fits(chip)
        if kernel.name != "merge_kernel":
            assert MATRIX_UNITS[chip] in kernel.ptx
