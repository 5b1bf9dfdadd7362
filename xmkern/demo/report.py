"""``report.html``: everything the run found, in one file that opens without a network."""

from __future__ import annotations

import base64
from html import escape

from xmkern.demo.evaluate import KS, Row
from xmkern.demo.speed import Step, Timing
from xmkern.demo.train import Curve

_STYLE = """
body { font: 16px/1.55 system-ui, "Noto Sans CJK SC", sans-serif; color: #1f2328; max-width: 62rem; margin: 3rem auto;
       padding: 0 1.5rem }
h1 { font-size: 1.9rem; margin-bottom: .2rem } h2 { font-size: 1.3rem; margin-top: 2.6rem }
h3 { font-size: 1rem; margin: 1.6rem 0 0 }
p.lead, figcaption, footer { color: #57606a }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin: 1rem 0 }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid #e4e7ea }
th { font-weight: 600; border-bottom: 2px solid #c8ccd0 }
th.text, td.text { text-align: left }
tr.chance td { color: #57606a; font-style: italic; border-bottom: 2px solid #c8ccd0 }
img, svg { max-width: 100%; height: auto } figure { margin: 1rem 0 }
footer { margin-top: 3rem; border-top: 1px solid #e4e7ea; padding-top: 1rem; font-size: .9rem }
"""


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def html_table(heading: list[str], rows: list[list[str]], texts: int = 1, marked: frozenset[int] = frozenset()) -> str:
    """A table whose first ``texts`` columns are words, and whose ``marked`` rows are the chance level."""

    def line(cells: list[str], tag: str, css: str = "") -> str:
        side = [' class="text"' if i < texts else "" for i in range(len(cells))]
        inner = "".join(f"<{tag}{c}>{escape(cell)}</{tag}>" for c, cell in zip(side, cells, strict=True))
        return f"<tr{css}>{inner}</tr>"

    body = "".join(line(row, "td", ' class="chance"' if i in marked else "") for i, row in enumerate(rows))
    return f"<table><thead>{line(heading, 'th')}</thead><tbody>{body}</tbody></table>"


def quality_cells(table: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Heading and cells of the recall and mAP table, for the terminal and the page alike."""
    rows = [
        [row.query, row.code, *(percent(row.recall[k]) if k in row.recall else "-" for k in KS), percent(row.map)]
        for row in table
    ]
    return ["search", "by", *(f"R@{k}" for k in KS), "mAP"], rows


def by_rows(table: list[Row]) -> dict[str, list[Row]]:
    """The table in parts: what is measured without skin tones, and on all rows."""
    parts: dict[str, list[Row]] = {}
    for row in table:
        parts.setdefault(f"unseen concepts, {row.rows}: {row.size:,} rows", []).append(row)
    return parts


def timing_cells(timings: list[Timing]) -> tuple[list[str], list[list[str]]]:
    """Heading and cells of the search times; no ratio is given where the distances differ."""
    ours = next(timing for timing in timings if timing.name == "xmkern")
    rows = []
    for timing in timings:
        fair = timing.agrees and ours.agrees
        ratio = f"{timing.milliseconds / ours.milliseconds:.1f}x" if fair else "-"
        rows.append([timing.name, f"{timing.milliseconds:.2f} ms", ratio, "yes" if timing.agrees else "NO"])
    return ["search", "median", "time over xmkern's", "same distances"], rows


def step_cells(steps: list[Step]) -> tuple[list[str], list[list[str]]]:
    """Heading and cells of the loss's cost; no ratio is given where the values differ."""
    ours = next(step for step in steps if step.name == "xmkern")
    rows = []
    for step in steps:
        ratio = f"{step.milliseconds / ours.milliseconds:.1f}x" if step.agrees and ours.agrees else "-"
        memory = "-" if step.megabytes is None else f"{step.megabytes:,.0f} MB"
        rows.append([step.name, f"{step.milliseconds:.1f} ms", ratio, memory, "yes" if step.agrees else "NO"])
    return ["loss", "median", "time over xmkern's", "memory", "same gradients"], rows


def _line(points: list[tuple[float, float]], colour: str, dots: bool) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points) if dots else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{marks}'


def curve_svg(curve: Curve) -> str:
    """The learning curve: smoothed loss (left axis) and recall@10 on unseen concepts (right axis) by step."""
    width, height, left, bottom, top = 760, 300, 56, 40, 20
    last = max(curve.steps[-1], 1)
    high = max(curve.losses)
    best = max([0.05, *curve.checks]) * 1.15

    def place(step: float, share: float) -> tuple[float, float]:
        return left + step / last * (width - 2 * left), top + (1 - share) * (height - top - bottom)

    loss, recall = "#0969da", "#1a9850"
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="learning curve" font-size="12">']
    for tick in range(5):
        x0, y = place(0, tick / 4)
        x1, _ = place(last, tick / 4)
        parts.append(f'<line x1="{x0}" y1="{y:.1f}" x2="{x1}" y2="{y:.1f}" stroke="#e4e7ea"/>')
        parts.append(f'<text x="{x0 - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{loss}">{high * tick / 4:.1f}</text>')
        parts.append(f'<text x="{x1 + 8}" y="{y + 4:.1f}" fill="{recall}">{100 * best * tick / 4:.0f} %</text>')
        x, _ = place(last * tick / 4, 0)
        label = f"{last * tick / 4:.0f}"
        parts.append(f'<text x="{x:.1f}" y="{height - 20}" text-anchor="middle" fill="#57606a">{label}</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 3}" text-anchor="middle" fill="#57606a">step</text>')
    losses = [place(s, v / high) for s, v in zip(curve.steps, curve.losses, strict=True)]
    checks = [place(s, v / best) for s, v in zip(curve.check_steps, curve.checks, strict=True)]
    parts += [_line(losses, loss, False), _line(checks, recall, True), "</svg>"]
    return "".join(parts)


def page(
    *,
    summary: str,
    table: list[Row],
    timings: list[Timing],
    timing_note: str,
    steps: list[Step],
    step_note: str,
    memory: list[list[str]],
    curve: Curve,
    grid_png: bytes,
    grid_note: str,
    facts: list[list[str]],
    attribution: str,
) -> str:
    """The whole page; nothing in it is fetched from anywhere."""
    quality = ""
    for title, part in by_rows(table).items():
        chance = frozenset(i for i, row in enumerate(part) if row.code == "chance")
        quality += f"<h3>{escape(title.capitalize())}</h3>{html_table(*quality_cells(part), 2, chance)}"
    picture = base64.b64encode(grid_png).decode()
    timing_heading, timing_rows = timing_cells(timings)
    step_heading, step_rows = step_cells(steps)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>xmkern: retrieval on OpenMoji and CLDR names</title><style>{_STYLE}</style></head><body>
<h1>Pictures and names, in 64 bits</h1>
<p class="lead">{escape(summary)}</p>
<h2>Retrieval of concepts that training never saw</h2>
{quality}
<p>R@k: a right picture (or a name of the same picture) among the first k. mAP: over the whole gallery, relevant is
what is of the same of nine groups; for the codes, the mean over all orders within equal distances. Chance: the exact
expectation of a random ranking.</p>
<h2>What is found</h2>
<figure><img alt="queries and the pictures found" src="data:image/png;base64,{picture}">
<figcaption>{escape(grid_note)}</figcaption></figure>
<h2>Search time</h2>
{html_table(timing_heading, timing_rows)}
<p>{escape(timing_note)}</p>
<h2>A step of the contrastive loss</h2>
{html_table(step_heading, step_rows)}
<p>{escape(step_note)}</p>
<h2>Memory of the gallery</h2>
{html_table(["kept as", "bytes an item", "this gallery", "a million items"], memory)}
<h2>Learning</h2>
<figure>{curve_svg(curve)}<figcaption>Blue: smoothed training loss. Green: recall@10 of English text to picture on the
unseen concepts without skin tones, looked at on the way; no choice was made by it.</figcaption></figure>
<h2>The run</h2>
{html_table(["fact", "value"], facts, 2)}
<footer>{escape(attribution)} Names: Unicode CLDR.</footer>
</body></html>
"""
