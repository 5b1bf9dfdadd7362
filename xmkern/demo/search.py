"""``python -m xmkern search "text"``: answers a query in English or Chinese from the demo's saved index."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from xmkern.demo import store
from xmkern.demo.evaluate import codes_of, embed_texts
from xmkern.demo.picture import Found, draw_grid


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table of what is found and writes its pictures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m xmkern search", description=__doc__)
    parser.add_argument("text", nargs="+", help="what to look for, in English or Chinese")
    parser.add_argument("-k", type=int, default=10, help="how many pictures (default 10)")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where the demo wrote (default demo/)")
    parser.add_argument("--out", type=Path, help="the picture grid to write (default search.png in the folder)")
    options = parser.parse_args(argv)
    text = " ".join(" ".join(options.text).split())
    if not text:
        parser.error("text must not be blank")
    if options.k < 1:
        parser.error(f"-k must be at least 1, not {options.k}")
    try:
        saved = store.load(options.folder)
    except store.NotRunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    k = min(options.k, len(saved.index))

    code = codes_of(saved.model, embed_texts(saved.model, [text]))
    start = time.perf_counter()
    distances, ids = saved.index.search(code, k)
    spent = 1e3 * (time.perf_counter() - start)
    distances, ids = np.asarray(torch.as_tensor(distances))[0], np.asarray(torch.as_tensor(ids))[0]

    console = Console(markup=False, emoji=False)  # a query or a name may have brackets and colons
    table = Table(title=f"{text}: {k} of {len(saved.index):,} pictures, {spent:.2f} ms", title_style="bold")
    for heading in ("bits apart", "English", "中文", "seen in training"):
        table.add_column(heading, justify="right" if heading == "bits apart" else "left")
    for distance, i in zip(distances.tolist(), ids.tolist(), strict=True):
        seen = "no" if saved.unseen[i] else "yes"
        table.add_row(str(distance), *(saved.names[language][i] for language in ("en", "zh")), seen)
    console.print(table)

    captions = tuple(f"{distance}: {saved.names['en'][i]}" for distance, i in zip(distances, ids, strict=True))
    found = Found(text, saved.images[ids], None, captions)
    out = options.out or options.folder / "search.png"
    page = draw_grid([found], f"{k} nearest of {len(saved.index):,} pictures, bits apart of 64", saved.attribution)
    store.write_whole(out, lambda file: page.save(file, format="PNG"))
    console.print(f"pictures: {out}")
    console.print(saved.attribution, style="dim")
    return 0


if __name__ == "__main__":
    sys.exit(main())
