"""What trainings reached, as files that people read."""

import csv
import json
from pathlib import Path
from typing import Any

from xmkern.data._packages import require
from xmkern.models import model_card
from xmkern.models.registry import SECTIONS
from xmkern.zoo.training import Result


def write_result(result: Result, folder: Path) -> None:
    """``result.json`` and ``curve.png`` of one training; ``pictures.png`` where the task has pictures to show."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = result.task.picture(result.model)
    facts = {
        "name": result.name,
        "task": type(result.task).__name__,
        "metric": result.task.metric,
        "value": result.score.value,
        "baseline_name": result.task.baseline,
        "baseline": result.score.baseline,
        "passed": result.passed,
        "seconds": round(result.seconds, 1),
        "steps": len(result.losses),
        "parameters": sum(p.numel() for p in result.model.parameters()),
        "pictures": picture is not None,
    }
    (folder / "result.json").write_text(json.dumps(facts, indent=2) + "\n")
    require("matplotlib", "zoo")
    from matplotlib.figure import Figure
    from matplotlib.image import imsave

    if picture is not None:
        imsave(folder / "pictures.png", picture)
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(result.losses) + 1), result.losses, color="#bbbbbb", linewidth=0.8)
    axes.plot(*_smooth(result.losses), color="#1f5fa8", linewidth=1.8)
    axes.set(xlabel="step", ylabel="loss", title=f"{result.name}: {facts['metric']} {facts['value']:.3f}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "curve.png", dpi=120)


def write_page(folder: Path) -> Path:
    """``report.md``, a table a section, and ``zoo.csv``, of all ``*/result.json`` below a folder."""
    results = {r["name"]: r for r in (json.loads(f.read_text()) for f in sorted(folder.glob("*/result.json")))}
    lines = ["# The zoo", "", "Every system trained by its recipe on two cores; measured on concepts never seen.", ""]
    for letter, title in SECTIONS.items():
        rows = [_row(model_card(name), found) for name, found in results.items() if model_card(name).section == letter]
        if rows:
            head = "| system | paper | parameters | kernels | parity | metric | reached | baseline | seconds |"
            lines += [f"## {letter}. {title}", "", head, "|---|---|---|---|---|---|---|---|---|", *rows, ""]
    if results:
        with (folder / "zoo.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, next(iter(results.values())), lineterminator="\n")
            writer.writeheader()
            writer.writerows(results.values())
    page = folder / "report.md"
    page.write_text("\n".join(lines))
    return page


def _row(card: Any, found: dict[str, Any]) -> str:
    reached = f"{found['value']:.3f}" if found["passed"] else f"{found['value']:.3f} (short of its margin)"
    name = f"[{card.name}]({card.name}/curve.png)"
    if found.get("pictures"):
        name += f" ([pictures]({card.name}/pictures.png))"
    cells = (
        name, card.paper, f"{found['parameters']:,}", ", ".join(card.kernels) or "-",
        card.parity or "-", found["metric"], reached, f"{found['baseline']:.3f} ({found['baseline_name']})",
        f"{found['seconds']:.0f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _smooth(losses: list[float], keep: float = 0.95) -> tuple[list[int], list[float]]:
    """Exponential mean with the start's bias taken off."""
    mean, weight, out = 0.0, 0.0, []
    for loss in losses:
        mean, weight = keep * mean + (1 - keep) * loss, keep * weight + (1 - keep)
        out.append(mean / weight)
    return list(range(1, len(out) + 1)), out
