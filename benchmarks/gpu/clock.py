"""How a time is taken on a GPU: events around a call, after a write that empties the cache, over inputs in rotation.

The write before each call also gives the processor time to enqueue the call, so that what is timed is the GPU's work.
Without a GPU (a dry run) the clock of the processor is read.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.gpu.cases import DRY


class Clock:
    def __init__(self) -> None:
        self.flushed = None
        if not DRY:
            found = torch.cuda.get_device_properties(0)
            self.flushed = torch.empty(2 * max(found.L2_cache_size, 32 << 20), dtype=torch.int8, device="cuda")

    def median(
        self, call: Callable[[Any], Any], sets: Sequence[Any], seconds: float = 0.25, least: int = 5, most: int = 100
    ) -> float:
        """Seconds a call takes. sets: of arguments, each used in turn."""
        for given in (*sets, sets[0]):
            call(given)
        self.wait()
        began = time.perf_counter()
        call(sets[0])
        self.wait()
        count = 2 if DRY else int(min(most, max(least, seconds / max(time.perf_counter() - began, 1e-6))))
        return statistics.median(self._times(call, [sets[i % len(sets)] for i in range(count)]))

    def _times(self, call: Callable[[Any], Any], given: Sequence[Any]) -> list[float]:
        if self.flushed is None:
            times = []
            for each in given:
                began = time.perf_counter()
                call(each)
                times.append(time.perf_counter() - began)
            return times
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in given]
        for each, (start, end) in zip(given, events, strict=True):
            self.flushed.zero_()
            start.record()
            call(each)
            end.record()
        self.wait()
        return [start.elapsed_time(end) / 1e3 for start, end in events]

    def replayed(self, call: Callable[[Any], Any], given: Any) -> float:
        """Seconds of a replay of the call captured in a CUDA graph."""
        if DRY:
            return self.median(call, [given])
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call(given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call(given)
        return self.median(lambda _: graph.replay(), [given])

    def wait(self) -> None:
        if not DRY:
            torch.cuda.synchronize()


def peak_bytes(call: Callable[[Any], Any], given: Any) -> int:
    """Memory that a call takes at once, beside its inputs; 0 where it cannot be known."""
    if DRY:
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call(given)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
