"""Rows of a run as CSV, as a Markdown table, and as plots."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
COLUMNS = (
    "what", "family", "case", "shape", "dtype", "pass", "contender", "status", "ms", "graph_ms", "peak_mib",
    "floor_ms", "floor",
)  # fmt: skip
_OF_CASE = ("family", "case", "shape", "dtype", "pass")


def write(folder: Path, rows: list[Row], facts: Row, floors: Row) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "gpu.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *facts], lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, **facts} for row in rows)
    (folder / "gpu.md").write_text(markdown(rows, facts, floors))
    plot(folder, rows)


def contests(rows: Iterable[Row]) -> dict[tuple[str, ...], dict[str, Row]]:
    """Timed rows by case and pass, then by contender."""
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        if row["what"] == "time":
            found.setdefault(tuple(row[k] for k in _OF_CASE), {})[row["contender"]] = row
    return found


def best_other(contest: dict[str, Row]) -> Row | None:
    others = [row for name, row in contest.items() if not name.startswith("xmkern") and "ms" in row]
    return min(others, key=lambda row: row["ms"], default=None)


def wrong(rows: Iterable[Row]) -> set[tuple[str, ...]]:
    """Cases whose values were not ours, or not right: they get no ratio."""
    return {
        tuple(row[k] for k in _OF_CASE[:-1])
        for row in rows
        if row["what"] == "check" and "case" in row and row["status"] != "ok"
    }


def markdown(rows: list[Row], facts: Row, floors: Row) -> str:
    bad = wrong(rows)
    lines = [", ".join(f"{k} {v}" for k, v in facts.items()), ""]
    rates = ", ".join(f"{name} {rate / 1e12:.3g} T/s" for name, rate in floors.items() if name != "what")
    lines += [f"Measured: {rates}." if rates else "A dry run, of tiny sizes: no figure here is a measurement.", ""]
    lines += ["| case | shape | dtype | pass | ours, ms | graph, ms | share of the floor | best other | ratio |"]
    lines += ["| --- | --- | --- | --- | ---: | ---: | ---: | --- | ---: |"]
    for key, contest in contests(rows).items():
        for name, ours in contest.items():
            if name.startswith("xmkern"):
                title = f"{key[1]}{name.removeprefix('xmkern')}"
                lines.append(
                    "| " + " | ".join((title, *key[2:], *_cells(ours, best_other(contest), key[:-1] in bad))) + " |"
                )
    failed = [row for row in rows if row["status"] != "ok"]
    if failed:
        lines += ["", f"Not measured, or not right ({len(failed)}):", ""]
        lines += [
            f"- {', '.join(str(row.get(k, '')) for k in (*_OF_CASE, 'contender'))}: {row['what']} {row['status']}"
            for row in failed
        ]
    return "\n".join(lines) + "\n"


def _cells(ours: Row, other: Row | None, bad: bool) -> tuple[str, ...]:
    if "ms" not in ours:
        return ours["status"], "", "", "", ""
    share = f"{ours['floor_ms'] / ours['ms']:.0%} ({ours['floor']})" if ours["floor_ms"] else ""
    graph = f"{ours['graph_ms']:.3f}" if "graph_ms" in ours else ""
    if other is None:
        return f"{ours['ms']:.3f}", graph, share, "", ""
    ratio = "wrong values" if bad else f"{other['ms'] / ours['ms']:.2f}"
    return f"{ours['ms']:.3f}", graph, share, f"{other['contender']}, {other['ms']:.3f} ms", ratio


def plot(folder: Path, rows: list[Row]) -> None:
    """A figure a family: times of all, beside the floor."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    by_family: dict[str, dict[str, dict[str, Row]]] = {}
    for key, contest in contests(rows).items():
        by_family.setdefault(key[0], {})[", ".join(key[1:])] = contest
    for family, found in by_family.items():
        contenders = list(dict.fromkeys(name for contest in found.values() for name in contest))
        figure, axes = pyplot.subplots(
            figsize=(9, 1.2 + 0.16 * len(found) * (len(contenders) + 1)), layout="constrained"
        )
        height = 0.8 / len(contenders)
        for k, name in enumerate(contenders):
            times = [contest.get(name, {}).get("ms", 0.0) for contest in found.values()]
            axes.barh([i + k * height for i in range(len(found))], times, height, label=name)
        for i, contest in enumerate(found.values()):
            floor = max(row["floor_ms"] for row in contest.values())
            axes.plot([floor, floor], [i - height / 2, i + 0.8 - height / 2], color="black", linewidth=1)
        axes.set_yticks([i + 0.4 - height / 2 for i in range(len(found))], list(found), fontsize=7)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlabel("ms; the line is the floor")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
        figure.savefig(folder / f"gpu_{family}.png", dpi=120)
        pyplot.close(figure)
