"""The tables of tiles: which row serves a call, and that all rows are such as launchers can use."""

import json

import pytest

from benchmarks.gpu import tune
from xmkern.ops import tuning
from xmkern.ops.gpu import Chip

TABLES = sorted(path.stem for path in tuning.FOLDER.glob("*.json"))
H100 = Chip(90, 227 << 10, 132)


@pytest.mark.parametrize(
    ("chip", "name"),
    [
        (H100, "sm_90"),
        (Chip(80, 163 << 10, 108), "sm_80"),
        (Chip(87, 163 << 10, 16), "sm_80"),
        (Chip(89, 99 << 10, 128), "sm_86"),
        (Chip(103, 227 << 10, 148), "sm_100"),
        (Chip(120, 99 << 10, 170), "sm_86"),
    ],
)
def test_a_chip_without_a_table_has_that_of_one_like_it(chip: Chip, name: str) -> None:
    assert tuning.nearest(chip) == name


@pytest.fixture
def small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"depth": 64, "crowded": False, "rows": 1}, {"depth": 64, "rows": 2}, {"depth": 128, "rows": 3}]
    monkeypatch.setattr(tuning, "table", lambda name: {"kernel": rows})
    tuning._row.cache_clear()
    yield
    tuning._row.cache_clear()


@pytest.mark.usefixtures("small_table")
@pytest.mark.parametrize(
    ("depth", "crowded", "rows"),
    [(64, False, 1), (16, False, 1), (64, True, 2), (65, False, 3), (128, True, 3), (300, False, 3)],
)
def test_the_first_row_that_serves_is_taken_or_the_last(depth: int, crowded: bool, rows: int) -> None:
    assert tuning.chosen("kernel", H100, depth=depth, crowded=crowded)["rows"] == rows


@pytest.mark.usefixtures("small_table")
def test_a_forced_row_is_taken_until_the_block_ends() -> None:
    with tuning.forced("kernel", {"rows": 9}):
        assert tuning.chosen("kernel", H100, depth=64)["rows"] == 9
    assert tuning.chosen("kernel", H100, depth=64)["rows"] == 1


def test_all_tables_have_the_same_kernels() -> None:
    assert TABLES == ["sm_100", "sm_80", "sm_86", "sm_90"]
    assert len({tuple(tuning.table(name)) for name in TABLES}) == 1


@pytest.mark.parametrize("name", TABLES)
def test_rows_keep_what_kernels_rely_on(name: str) -> None:
    table = tuning.table(name)
    for kernel, rows in table.items():
        for row in rows:
            sizes = {k: v for k, v in row.items() if k not in ("size", "crowded", "few", "stages")}
            assert all(v & (v - 1) == 0 for v in sizes.values()), (kernel, row)
    assert all(row["rows"] == row["keys"] for row in table["attention.grad_bias"])
    for size in (2, 4):  # logits have the same bits forward and backward
        both = [*table["contrastive.forward"], *table["contrastive.backward"]]
        assert len({row["chunk"] for row in both if row["size"] == size}) == 1
    assert all(row["keys"] == 32 or row["keys"] % 64 == 0 for row in table["attention.forward"])  # dropout's words


@pytest.mark.parametrize("name", TABLES)
def test_the_tuner_writes_tables_as_they_are(name: str) -> None:
    text = (tuning.FOLDER / f"{name}.json").read_text()
    assert tune.dumped(json.loads(text)) == text


def test_neighbours_differ_in_one_value() -> None:
    row = {"size": 2, "depth": 64, "rows": 128, "keys": 64, "warps": 8, "stages": 1}
    found = list(tune.neighbours("attention.forward", row, {"size", "depth", "crowded"}))
    changed = [{k: v for k, v in other.items() if row[k] != v} for other in found]
    assert changed == [
        {"rows": 64}, {"rows": 256}, {"keys": 32}, {"keys": 128}, {"warps": 4}, {"warps": 16}, {"stages": 2},
    ]  # fmt: skip


def test_neighbours_keep_what_kernels_rely_on() -> None:
    row = {"size": 2, "rows": 32, "keys": 32, "warps": 8, "stages": 2}
    assert all(r["rows"] == r["keys"] for r in tune.neighbours("attention.grad_bias", row, {"size"}))
    row = {"size": 2, "rows": 64, "columns": 64, "chunk": 32, "warps": 4, "stages": 3}
    assert all(r["chunk"] == 32 for r in tune.neighbours("contrastive.forward", row, {"size"}))
