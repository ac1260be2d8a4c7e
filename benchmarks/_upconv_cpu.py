"""The up-convolution on the CPU: whole decoders and their layers, against torch's own transposed convolution."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from _decoders import (
    DECODERS,
    PASSES,
    Contender,
    Naive,
    Ours,
    Plain,
    Problem,
    WrongResultError,
    flops,
)
from _timing import Cells, load, processor
from _turns import in_turns
from _upconv_tables import CHANNELS_LAST, DEFAULT, NAIVE, OURS, WHOLE, UpconvTable

COLUMNS = (
    *("net", "layer", "dtype", "batch", "threads", "pass", "contender"),
    *("median", "min", "ratio", "spread", "remark"),
)
CPU = torch.device("cpu")
DTYPES = (torch.bfloat16, torch.float32)
ALONE = 0.85  # share of the threads' time; with less, others were at work on the machine
MATMUL = 1536  # side of the matrices whose product tells what the machine can do


def contenders(problem: Problem, dtype: torch.dtype) -> list[Contender]:
    """Ours and torch's own in both layouts."""
    return [
        Contender(OURS, Ours(problem), problem, dtype, CPU),
        Contender(DEFAULT, Plain(problem), problem, dtype, CPU, channels_last=False),
        Contender(CHANNELS_LAST, Plain(problem), problem, dtype, CPU),
    ]


@functools.cache
def matmul_rate(dtype: torch.dtype, threads: int, side: int = MATMUL) -> float:
    """FLOPs a millisecond of a product of square matrices, the best of some, with so many threads (which are set)."""
    torch.set_num_threads(threads)
    a, b = torch.randn(2, side, side).to(dtype)
    return 2 * side**3 / in_turns({"matmul": lambda: a @ b}, 0.5)["matmul"].least


class CpuPart:
    """Measures decoders on the CPU; whatever is wrong is told in `failures` and not measured."""

    def __init__(self, results: Path, seconds: float, threads: list[int]) -> None:
        self.table = UpconvTable(results / "upconv-cpu.csv", {"machine": processor(), "load": load()}, COLUMNS)
        self.seconds = seconds  # of rounds, for a pass of a whole decoder; a layer gets a quarter
        self.threads = threads
        self.failures: list[str] = []

    def measure(self, net: str, batches: tuple[int, ...], *, naive: bool, layers: bool) -> None:
        """All rows of a decoder."""
        problems = [(WHOLE, DECODERS[net], self.seconds)]
        if layers:
            problems += [(layer.name, (layer,), self.seconds / 4) for layer in DECODERS[net]]
        for batch in batches:
            for name, shapes, seconds in problems:
                problem = Problem(shapes, batch)
                for dtype, threads in self._settings():
                    about = {"net": net, "layer": name, "dtype": str(dtype)[6:], "batch": batch, "threads": threads}
                    self._measure(problem, dtype, about, seconds)
                    if naive and name == WHOLE and threads == max(self.threads):
                        self._naive(problem, dtype, about)

    def _settings(self) -> Iterator[tuple[torch.dtype, int]]:
        for dtype in DTYPES:
            for threads in self.threads:
                torch.set_num_threads(threads)
                yield dtype, threads

    def _measure(self, problem: Problem, dtype: torch.dtype, about: Cells, seconds: float) -> None:
        """Both passes of all contenders, in turns."""
        there = contenders(problem, dtype)
        rate = matmul_rate(dtype, torch.get_num_threads())
        for which in PASSES:
            row = {**about, "pass": which}
            sound = [contender for contender in there if self._right(contender, which, row)]
            runners = {contender.name: contender.runner(which) for contender in sound}
            before = None if which == "forward" else functools.partial(_all_changed, sound)
            begin, worked = time.perf_counter(), time.process_time()
            times = in_turns(runners, seconds, before=before)
            share = (time.process_time() - worked) / (time.perf_counter() - begin) / torch.get_num_threads()
            for name, measured in times.items():
                self.table.measured(row, name, measured, times.get(OURS), _remark(len(measured.milliseconds), share))
            if OURS in times:
                told = f"matrix product: {rate / 1e6:.0f} GFLOP/s"
                self.table.floor(row, flops(problem.layers, problem.batch, which) / rate, times[OURS], told)

    def _right(self, contender: Contender, which: str, row: Cells) -> bool:
        try:
            contender.check(which)
        except WrongResultError as error:
            self.failures.append(" ".join(map(str, [*row.values(), contender.name, error])))
            self.table.wrong(row, contender.name, str(error))
            return False
        return True

    def _naive(self, problem: Problem, dtype: torch.dtype, about: Cells) -> None:
        """What the definition costs, taken at its word: once, after two calls to warm up."""
        contender = Contender(NAIVE, Naive(problem), problem, dtype, CPU)
        for which in PASSES:
            row = {**about, "pass": which}
            if self._right(contender, which, row):
                times = in_turns({NAIVE: contender.runner(which)}, 0, least=1)
                self.table.measured(row, NAIVE, times[NAIVE], None)


def _remark(rounds: int, share: float) -> str:
    """Waiting threads spin, so that on a quiet machine all of them compute all the time."""
    busy = "" if share > ALONE else f", DISTURBED: only {100 * share:.0f} % of the cores' time was ours"
    return f"{rounds} rounds{busy}"


def _all_changed(contenders: list[Contender]) -> None:
    for contender in contenders:
        contender.changed()
