"""Draws the README's tables from the rows that were measured: ``python -m benchmarks readme``."""

import csv
import re
from pathlib import Path

from benchmarks import attention, contrastive, damsm, hamming, hamming_mih, late_interaction, transport
from benchmarks.measure import RESULTS

README = Path(__file__).parent.parent / "README.md"
TABLES = {
    "attention": attention.table,
    "contrastive": contrastive.table,
    "contrastive_memory": contrastive.memory_table,
    "late_interaction": late_interaction.table,
    "damsm": damsm.table,
    "transport": transport.table,
    "hamming": hamming.table,
    "hamming_mih": hamming_mih.table,
}


def render(text: str) -> str:
    for name, table in TABLES.items():
        path = RESULTS / f"{name}.csv"
        body = "Not yet measured."
        if path.exists():
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            facts = rows[0]
            where = f"{facts['processor']}, {facts['capability']}, {facts['threads']} threads, torch {facts['torch']}"
            body = f"{table(rows)}\n\nMeasured on {where}."
        marked = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        text = re.sub(marked, lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text, flags=re.DOTALL)
    return text


def main() -> None:
    README.write_text(render(README.read_text()))
    print(f"drew {', '.join(TABLES)} into {README.name}")
