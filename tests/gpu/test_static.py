"""What can be known of Triton kernels without a GPU: as the launchers ask for them, they compile for each chip, fit it,
and come to no more registers and stack, and no fewer of the instructions, than ``benchmarks/results/gpu_static.csv``
has. ``python -m benchmarks gpu --static`` writes that table anew.

A few calls of each family are compiled in every run, most of them for sm_90, and all with ``XMKERN_THOROUGH=1``.
"""

import os
from dataclasses import replace

import pytest

from benchmarks.gpu import static
from benchmarks.gpu.compiled import SHARED_BYTES, Figures
from benchmarks.gpu.launches import FAMILIES, Launch, launches

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    bool(os.environ.get("TRITON_INTERPRET")), reason="the interpreter is on, so kernels are not compiled"
)

MATRIX_UNITS = {80: "mma", 90: "wgmma", 100: "tcgen05"}
THOROUGH = bool(os.environ.get("XMKERN_THOROUGH"))


def chosen(family: str, chip: int) -> list[Launch]:
    """All, or the usual ones for sm_90, and one for sm_80 and sm_100."""
    if THOROUGH:
        return launches(family, chip)
    usual = [launch for launch in launches(family, chip) if launch.usual]
    return usual if chip == 90 else usual[: chip != 86]


CALLS = [
    pytest.param(family, launch, chip, id=f"{family}, {launch.name}, sm_{chip}")
    for chip in SHARED_BYTES
    for family in FAMILIES
    for launch in chosen(family, chip)
]


@pytest.mark.parametrize(("family", "launch", "chip"), CALLS)
def test_no_regression(family: str, launch: Launch, chip: int) -> None:
    found = static.figures(family, launch, chip)
    problems = list(static.regressions((family, launch.name, chip), found))
    assert not problems, "\n".join(problems)


def test_the_table_is_of_what_is_launched() -> None:
    every = {
        (family, each.name, chip) for chip in static.CHIPS for family in FAMILIES for each in launches(family, chip)
    }
    assert set(static.table()) == every, "run: python -m benchmarks gpu --static"


@pytest.mark.parametrize("chip", static.CHIPS)
@pytest.mark.parametrize(
    ("family", "kernels", "call"),
    [
        ("attention", {"forward_kernel", "grad_query_kernel", "grad_key_value_kernel"}, "causal, heads of 64"),
        ("attention", {"forward_kernel", "grad_query_kernel", "grad_key_value_kernel"}, "bias, heads of 64"),
        ("bi_attention", {"forward_kernel", "gradient_kernel"}, "softmax, depth 512"),
        ("contrastive", {"reduce_kernel", "slope_kernel"}, "logsumexp of pairs by ids"),
        ("late_interaction", {"best_kernel", "gradient_kernel"}, "49 x 49 tokens"),
    ],
)
def test_matrix_units_are_those_of_the_chip(family: str, kernels: set[str], call: str, chip: int) -> None:
    rows = static.table()[family, f"{call}, bfloat16", chip]
    used = {row["kernel"] for row in rows if MATRIX_UNITS[chip] in row["instructions"].split()}
    assert kernels <= used


@pytest.mark.parametrize("chip", static.CHIPS)
def test_what_memory_binds_moves_sixteen_bytes_at_a_time(chip: int) -> None:
    calls = [("diffusion", f"DDIM, {d}") for d in ("float32", "bfloat16")]
    calls += [("epilogue", "norm of 1024, bfloat16")]
    calls += [("epilogue", f"{name}, bfloat16") for name in ("gelu", "gelu, gated", "tanh gate of elements")]
    for call in calls:
        for row in static.table()[*call, chip]:
            assert {"load128", "store128"} <= set(row["instructions"].split()), (call, row["kernel"])


@pytest.mark.parametrize("chip", static.CHIPS)
def test_bits_are_counted_by_one_instruction(chip: int) -> None:
    for (family, call, of_chip), rows in static.table().items():
        if family == "hamming" and of_chip == chip:
            counting = [row for row in rows if row["kernel"] != "merge_spans_kernel"]
            assert all("popc" in row["instructions"].split() for row in counting), call


def row(**changed: str) -> dict[str, str]:
    figures = {"registers": "100", "stack": "0", "shared": "1024", "instructions": "mma load128"}
    import triton

    names = {"kernel": "k", "tiles": "rows=64", "warps": "4", "triton": triton.__version__}
    return figures | names | changed


GOOD = Figures("k", "rows=64", 4, 100, 0, 1024, ("mma", "load128"))


@pytest.mark.parametrize(
    ("found", "of_table", "said"),
    [
        (GOOD, {}, None),
        (replace(GOOD, registers=108), {}, None),
        (replace(GOOD, registers=109), {}, "109 registers, and had 100"),
        (replace(GOOD, registers=109), {"triton": "3.6.0"}, None),
        (replace(GOOD, stack=8), {}, "8 bytes on the stack, and had 0"),
        (replace(GOOD, shared=200_000), {}, "200000 bytes of shared memory"),
        (replace(GOOD, registers=255, warps=16), {"registers": "255"}, "255 registers in each of 512 threads"),
        (replace(GOOD, instructions=("mma",)), {"triton": "3.6.0"}, "no longer has the instructions load128"),
        (replace(GOOD, kernel="other"), {}, "launches ['other'], and the table has ['k']"),
    ],
)
def test_a_regression_is_named(
    monkeypatch: pytest.MonkeyPatch, found: Figures, of_table: dict[str, str], said: str | None
) -> None:
    key = ("family", "call", 80)
    monkeypatch.setattr(static, "table", lambda: {key: [row(**of_table)]})
    problems = list(static.regressions(key, [found]))
    if said is None:
        assert not problems
    else:
        assert len(problems) == 1
        assert problems[0].startswith("family, call, sm_80: ")
        assert said in problems[0]
