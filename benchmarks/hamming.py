"""Hamming search against FAISS: the ten nearest of 2^20 random codes, for many queries and for one at a time."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import xmkern.functional as xf
from benchmarks.measure import RESULTS, alternate, read_bandwidth, write_rows

CODES, K = 2**20, 10
TARGETS = {(64, 256): 15, (128, 256): 10, (256, 256): 6, (64, 1): 3.5, (128, 1): 2.5, (256, 1): 1.5}


def rows() -> list[dict[str, Any]]:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    bandwidth = read_bandwidth()
    out = []
    for bits, queries in TARGETS:
        random = np.random.default_rng(bits)
        codes = random.integers(0, 256, (CODES, bits // 8), dtype=np.uint8)
        wanted = random.integers(0, 256, (queries, bits // 8), dtype=np.uint8)
        peers = {}
        for heap in (True, False):
            index = faiss.IndexBinaryFlat(bits)
            index.use_heap = heap
            index.add(codes)
            peers["faiss heap" if heap else "faiss counting"] = index
        ours, _ = xf.hamming_topk(wanted, codes, K)
        if not np.array_equal(ours, peers["faiss heap"].search(wanted, K)[0]):
            raise AssertionError(f"distances differ from FAISS at {bits} bits: no time is taken")
        calls = {name: partial(index.search, wanted, K) for name, index in peers.items()}
        calls["xmkern"] = partial(xf.hamming_topk, wanted, codes, K)
        times = alternate(calls, seconds=4.0, least=3 if queries > 1 else 30)
        best = min(name for name in peers if times[name] == min(times[p] for p in peers))
        out.append(
            {
                "bits": bits,
                "queries": queries,
                "codes": CODES,
                "k": K,
                "xmkern_ms": round(times["xmkern"] * 1e3, 4),
                "faiss_ms": round(times[best] * 1e3, 4),
                "faiss_mode": best.removeprefix("faiss "),
                "ratio": round(times[best] / times["xmkern"], 2),
                "target": TARGETS[bits, queries],
                "gigadistances_per_s": round(queries * CODES / times["xmkern"] / 1e9, 2),
                # One pass over the codes: what a single query cannot beat, unless the caches hold them.
                "codes_mb": round(codes.nbytes / 1e6, 1),
                "read_floor_ms": round(codes.nbytes / bandwidth * 1e3, 4),
            }
        )
    return out


def table(measured: list[dict[str, Any]]) -> str:
    lines = [
        "| bits | queries | xmkern | FAISS (better mode) | ratio | distances/s |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {r['bits']} | {r['queries']} | {float(r['xmkern_ms']):.2f} ms | {float(r['faiss_ms']):.2f} ms "
        f"| **{float(r['ratio']):.1f}x** | {float(r['gigadistances_per_s']):.1f} G |"
        for r in measured
    ]
    return "\n".join(lines)


def reading(measured: list[dict[str, Any]]) -> str:
    """How fast a single query reads the codes, beside what memory gives."""
    lines = []
    for r in measured:
        if int(r["queries"]) > 1:
            continue
        size = float(r["codes_mb"])
        ours, faiss, memory = (f"{size / float(r[key]):.0f}" for key in ("xmkern_ms", "faiss_ms", "read_floor_ms"))
        lines.append(
            f"One query of {r['bits']} bits reads {size:.0f} MB of codes at {ours} GB/s, FAISS at {faiss} GB/s; "
            f"memory gives {memory} GB/s."
        )
    return "\n".join(lines)


def plot(measured: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    for offset, (queries, colour, label) in enumerate([(256, "#2a6f97", "256 queries"), (1, "#a9d6e5", "one query")]):
        chosen = [r for r in measured if int(r["queries"]) == queries]
        places = [i + 0.4 * offset for i in range(len(chosen))]
        bars = axes.bar(places, [r["ratio"] for r in chosen], 0.38, color=colour, label=label)
        axes.bar_label(bars, [f"{r['ratio']:.1f}x" for r in chosen], padding=2, fontsize=9)
    axes.set_xticks([i + 0.2 for i in range(3)], ["64 bits", "128 bits", "256 bits"])
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_ylabel("times faster than FAISS")
    axes.set_title("Exact 10 nearest of 2²⁰ codes, same threads", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.15)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    measured = rows()
    print(table(measured))
    print(f"\n{reading(measured)}")
    path = write_rows("hamming", measured)
    plot(measured, path.with_suffix(".png"))
    print(f"\nrows in {path.relative_to(RESULTS.parent.parent)}, plot beside them")
