"""Multi-index hashing against our own flat scan: all 64-bit codes within 3 bits, and how the cost grows with N."""

import time
from functools import partial
from typing import Any

import numpy as np
import torch

import xmkern.functional as xf
from benchmarks.measure import RESULTS, alternate, write_rows
from xmkern.hamming.mih import Tables

BITS, RADIUS, QUERIES = 64, 3, 256
SIZES = (10**6, 10**7)
TARGET = 50  # times faster than the flat scan at the largest size


def rows() -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    all_threads = torch.get_num_threads()
    for count in SIZES:
        random = np.random.default_rng(count)
        codes = random.integers(0, 256, (count, BITS // 8), dtype=np.uint8)
        queries = near_codes(random, codes)
        began = time.perf_counter()
        tables = Tables(codes, BITS)
        facts = {
            "codes": count,
            "build_s": round(time.perf_counter() - began, 3),
            "table_bytes_per_code": round(tables.nbytes / count, 1),
            "target": TARGET if count == SIZES[-1] else "",
        }
        try:
            # A batch takes a millisecond or less: where other programs want the cores, one thread is the steadier.
            for threads in sorted({1, all_threads}):
                torch.set_num_threads(threads)
                out.append({**facts, "search_threads": threads, **measure(tables, queries, codes)})
        finally:
            torch.set_num_threads(all_threads)
    return out


def measure(tables: Tables, queries: np.ndarray, codes: np.ndarray) -> dict[str, Any]:
    calls = {
        "mih": partial(tables.range, queries, codes, RADIUS),
        "flat": partial(xf.hamming_range, queries, codes, RADIUS),
    }
    found, expected = calls["mih"](), calls["flat"]()
    if not all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)):
        raise AssertionError(f"results differ at {len(codes)} codes: no time is taken")
    times = {name: seconds / QUERIES * 1e6 for name, seconds in alternate(calls, seconds=4.0, least=9).items()}
    return {
        "bits": BITS,
        "radius": RADIUS,
        "queries": QUERIES,
        "found": len(found[1]),
        "mih_us_per_query": round(times["mih"], 3),
        "flat_us_per_query": round(times["flat"], 3),
        "ratio": round(times["flat"] / times["mih"], 1),
    }


def near_codes(random: np.random.Generator, codes: np.ndarray) -> np.ndarray:
    """Copies of random codes with 0 to RADIUS bits flipped."""
    flags = np.unpackbits(codes[random.integers(0, len(codes), QUERIES)], axis=1)
    for row in flags:
        row[random.choice(BITS, random.integers(0, RADIUS + 1), replace=False)] ^= 1
    return np.packbits(flags, axis=1)


def table(measured: list[dict[str, Any]]) -> str:
    lines = [
        "| codes | threads | mih | flat scan | ratio | build |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {int(r['codes']):,} | {r['search_threads']} | {float(r['mih_us_per_query']):.2f} us "
        f"| {float(r['flat_us_per_query']):.1f} us | **{float(r['ratio']):.0f}x** | {float(r['build_s']):.2f} s |"
        for r in measured
    ]
    return "\n".join(lines)


def growth(measured: list[dict[str, Any]]) -> str:
    """What ten times the codes cost, on one thread."""
    few, many = (next(r for r in measured if r["codes"] == n and r["search_threads"] == 1) for n in SIZES)
    mih, flat = (many[key] / few[key] for key in ("mih_us_per_query", "flat_us_per_query"))
    return (
        f"From {SIZES[0]:,} to {SIZES[-1]:,} codes, hashing takes {mih:.1f} times as long, the scan {flat:.1f} times."
    )


def main() -> None:
    measured = rows()
    print(f"Range search within {RADIUS} bits, {QUERIES} queries at once; times are per query.\n")
    print(table(measured))
    print(f"\n{growth(measured)}")
    print(f"\nrows in {write_rows('hamming_mih', measured).relative_to(RESULTS.parent.parent)}")
