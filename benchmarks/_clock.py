"""How long work on a device takes: by events on a GPU, by the wall's clock on the CPU for a rehearsal."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from _timing import Runner

LARGEST_CACHE = 256 << 20  # bytes; at least what is written between measurements, to empty the device's caches


class CudaClock:
    """Times by CUDA events on the current stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
        self._flush = torch.empty(max(2 * cache, LARGEST_CACHE), dtype=torch.uint8, device=device)

    def median(self, run: Runner, repeats: int) -> float:
        """Milliseconds of one call that finds nothing in the cache; the device is kept busy meanwhile, so that
        what the CPU needs to launch the work is not in it."""
        for _ in range(3):
            run()
        times: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        for _ in range(repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._flush.zero_()
            begin.record()
            run()
            end.record()
            times.append((begin, end))
        torch.cuda.synchronize(self._device)
        return statistics.median(begin.elapsed_time(end) for begin, end in times)

    def once(self, run: Runner) -> float:
        """Milliseconds of one call that finds nothing in the cache, launched while the device is busy emptying it."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    def in_a_row(self, run: Runner, calls: int) -> float:
        """Milliseconds a call of many, launching included: the median of five such rows."""
        run()
        times = []
        for _ in range(5):
            torch.cuda.synchronize(self._device)
            begin = time.perf_counter()
            for _ in range(calls):
                run()
            torch.cuda.synchronize(self._device)
            times.append(1e3 * (time.perf_counter() - begin) / calls)
        return statistics.median(times)

    def graph(self, run: Runner) -> Callable[[], object] | str:
        """The work captured once, to be replayed; or why it cannot be captured."""
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                kept = run()  # the graph writes here: it must live as long as the graph
        except RuntimeError as error:
            return str(error).splitlines()[0]

        def replay() -> object:
            graph.replay()
            return kept

        return replay

    def free_memory(self) -> int:
        """Bytes, of the device."""
        torch.cuda.empty_cache()
        free: int = torch.cuda.mem_get_info(self._device)[0]
        return free


class CpuClock:
    """The same on the CPU, where there is nothing to wait for and no graph."""

    def median(self, run: Runner, repeats: int) -> float:
        """Milliseconds of one call."""
        return self.in_a_row(run, repeats)

    def once(self, run: Runner) -> float:
        """Milliseconds of one call."""
        return self.in_a_row(run, 1)

    def in_a_row(self, run: Runner, calls: int) -> float:
        """Milliseconds a call."""
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        return 1e3 * (time.perf_counter() - begin) / calls

    def graph(self, run: Runner) -> str:
        """Why there is none."""
        return "this is a rehearsal on the CPU"

    def free_memory(self) -> int:
        """Bytes; a number that never matters."""
        return 1 << 40
