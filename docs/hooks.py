"""What the site draws when it is built: plots from the rows that were measured, and the table of the zoo."""

import csv
import io
import math
import sys
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


def on_files(files: Files, config: object) -> Files:
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.csv")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if rows and "ratio" in rows[0] and any(name.startswith("xmkern_") for name in rows[0]):
            files.append(File.generated(config, f"plots/{path.stem}.svg", content=_plot(rows)))  # type: ignore[arg-type]
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        files.append(File.generated(config, f"plots/{path.name}", abs_src_path=str(path)))  # type: ignore[arg-type]
    return files


def on_page_markdown(markdown: str, page: object, config: object, files: Files) -> str:
    if "<!-- zoo -->" in markdown:
        markdown = markdown.replace("<!-- zoo -->", _zoo())
    # Pages that are also read in the repository point to its pictures and pages; the site has its own copies.
    return markdown.replace("../benchmarks/results/", "plots/")


def _plot(rows: list[dict[str, str]]) -> bytes:
    """How many times faster, a line a case, a colour for each dtype and pass; several rows of one are averaged."""
    ours = next(name for name in rows[0] if name.startswith("xmkern_"))
    names = list(rows[0])[: list(rows[0]).index(ours)]
    series = [name for name in ("dtype", "pass") if name in names]
    labels = [name for name in names if name not in (*series, "shape", "target")]
    if len({tuple(row[name] for name in labels) for row in rows}) > 30:
        labels = labels[:1]
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        label = ", ".join(row[name] if name in ("case", "loss", "tail") else f"{name} {row[name]}" for name in labels)
        found[", ".join(row[name] for name in series)][label].append(float(row["ratio"]))
    places = {label: i for i, label in enumerate(dict.fromkeys(label for of in found.values() for label in of))}
    figure = Figure(figsize=(8, 1.3 + 0.27 * len(places)), layout="constrained")
    axes = figure.subplots()
    for name, ratios in found.items():
        means = [math.exp(sum(map(math.log, each)) / len(each)) for each in ratios.values()]
        axes.scatter(means, [places[label] for label in ratios], s=26, label=name, alpha=0.85)
    axes.axvline(1, color="#888888", linewidth=0.8)
    axes.set(xscale="log", yticks=list(places.values()), yticklabels=list(places), xlabel="times faster than the peer")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if x < 20 and f"{x:g}"[0] in "235" else "")
    axes.invert_yaxis()
    axes.grid(axis="x", color="#dddddd", linewidth=0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    if any(found):
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="svg")
    return out.getvalue()


def _zoo() -> str:
    from xmkern.models import list_models, model_card
    from xmkern.models.registry import SECTIONS
    from xmkern.zoo.recipes import RECIPES

    reached = {}
    if (path := ROOT / "benchmarks" / "results" / "zoo.csv").exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                short = "" if row["passed"] == "True" else ", short of its margin"
                value, baseline = float(row["value"]), float(row["baseline"])
                reached[row["name"]] = f"{row['metric']} {value:.3f}; {row['baseline_name']} {baseline:.3f}{short}"
    lines = []
    for letter, title in SECTIONS.items():
        cards = [model_card(name) for name in list_models(letter)]
        if cards:
            head = "| system | what distinguishes it | paper | parity | task | reached |"
            lines += [f"## {letter}. {title}", "", head, "| --- | --- | --- | --- | --- | --- |"]
            for card in cards:
                task = RECIPES[card.name].task if card.name in RECIPES else ""
                cells = (f"`{card.name}`", card.summary, card.paper, card.parity or "", task)
                lines.append(f"| {' | '.join(cells)} | {reached.get(card.name, 'not yet run in full')} |")
            lines.append("")
    return "\n".join(lines)
