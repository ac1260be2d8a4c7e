"""Check contenders, time them in turns, and write the results to CSV files."""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch
from torch.utils.benchmark import Timer

from preimage.io import write_png
from preimage.ops import _native

Runner = Callable[[], object]
Cell = str | int | float | None

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = (
    "opencv-python",
    "opencv-python-headless",
    "scikit-image",
    "scikit-learn",
    "kornia",
    "onnxruntime",
    "ray",
    "triton",
)
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")  # those in color that come with scikit-image


class WrongResultError(Exception):
    """The result of a contender is wrong, so it is not timed."""


@dataclasses.dataclass(frozen=True)
class Times:
    """Milliseconds per call of one contender, one value for each round of turns."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def min(self) -> float:
        return min(self.rounds)

    @property
    def spread(self) -> float:
        """Half the interquartile range (half the range for fewer than four rounds) as a share of the median."""
        low, high = min(self.rounds), max(self.rounds)
        if len(self.rounds) >= 4:
            low, _, high = statistics.quantiles(self.rounds, n=4)
        return (high - low) / 2 / self.median

    def ratio(self, other: Times) -> float:
        """Return the median of the ratios of the same rounds, which a change of the machine's load cancels out of."""
        return statistics.median(mine / theirs for mine, theirs in zip(self.rounds, other.rounds, strict=True))


def take_turns(
    contenders: Mapping[str, Runner],
    *,
    seconds: float,
    threads: int = 1,
    gpu: bool = False,
    min_rounds: int = 3,
    max_rounds: int = 100,
    turn: float = 0.02,
) -> dict[str, Times]:
    """Time contenders in rounds, A B C A B C …, so that a change of the machine's load affects all of them alike.

    Args:
        contenders: functions to call, by name.
        seconds: time after which no new round begins, once there are `min_rounds`.
        threads: torch's number of threads, on the CPU.
        gpu: time with CUDA events and an empty cache (`triton.testing.do_bench`), instead of by the wall clock with
            everything that a call costs, launches included (`torch.utils.benchmark.Timer`).
        min_rounds, max_rounds: bounds for the number of rounds.
        turn: least time of one turn in seconds; its median counts. A call before it warms up.
    """
    rounds: dict[str, list[float]] = {name: [] for name in contenders}
    timers = {name: Timer("run()", globals={"run": run}, num_threads=threads) for name, run in contenders.items()}
    begin = time.monotonic()
    for number in range(max_rounds):
        if number >= min_rounds and time.monotonic() - begin > seconds:
            break
        for name, run in contenders.items():
            if gpu:
                import triton.testing  # noqa: PLC0415 - not on every machine

                rounds[name].append(triton.testing.do_bench(run, warmup=1, rep=1e3 * turn, return_mode="median"))
            else:
                rounds[name].append(1e3 * timers[name].blocked_autorange(min_run_time=turn).median)
    return {name: Times(tuple(times)) for name, times in rounds.items()}


def check(name: str, result: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Compare a result with the float64 one.

    Raises:
        WrongResultError: ‖result - expected‖ / ‖expected‖ is above the tolerance, or is NaN, or the shapes differ.
    """
    if result.shape != expected.shape:
        raise WrongResultError(f"{name} has shape {tuple(result.shape)}, expected {tuple(expected.shape)}")
    error = ((result.detach().double() - expected).norm() / expected.norm()).item()
    if not error <= tolerance:
        raise WrongResultError(f"{name} has a relative error of {error:.1e}, above {tolerance:.0e}")


def cuda_graph(run: Runner) -> Runner:
    """Capture a call as a CUDA graph; a replay returns the same output tensors each time."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # whatever is compiled or chosen at a first call
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()

    def replay() -> object:
        graph.replay()
        return outputs

    return replay


def processor() -> str:
    """Return the name of the processor, as far as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in lines if ":" in line}
    return f"{fields.get('model name', platform.processor())} family {fields.get('cpu family')} {fields.get('model')}"


def versions() -> str:
    """Return the versions of everything that takes part in a benchmark."""
    parts = [f"preimage {version('preimage')} {_native.compiler}", f"torch {torch.__version__}"]
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            parts.append(f"{package} {version(package)}")
    return "; ".join([*parts, f"Python {platform.python_version()}"])


class Table:
    """A CSV to which rows are appended one by one, so that a benchmark that is stopped keeps what it has measured.

    Args:
        path: of the file, which may exist.
        device_column: name of the column for `device`.
        device: name of the device that runs the benchmark.
        columns: all others, after date, device, load and versions.
        json_lines: print rows as lines of JSON instead of a table.

    Raises:
        SystemExit: the file has other columns.
    """

    def __init__(
        self, path: Path, device_column: str, device: str, columns: tuple[str, ...], *, json_lines: bool = False
    ) -> None:
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%MZ")
        load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        self.path = path
        self._common = {"date": now, device_column: device, "load": load, "versions": versions()}
        self._columns = (*self._common, *columns)
        self._widths = {column: len(column) for column in columns}
        self._json_lines = json_lines
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            self._write(list(self._columns))
        with path.open(newline="") as file:
            header = next(csv.reader(file), [])
        if header != list(self._columns):
            raise SystemExit(f"{path} has the columns {', '.join(header)}: move it away to start a new one")
        if not json_lines:
            print("  ".join(columns))

    def add(self, **cells: Cell) -> None:
        """Append a row and print it; columns that are not named stay empty."""
        row = {name: _text(value) for name, value in cells.items()}
        if unknown := set(row) - set(self._columns):
            raise ValueError(f"{self.path} has no column {', '.join(sorted(unknown))}")
        self._write([{**self._common, **row}.get(column, "") for column in self._columns])
        if self._json_lines:
            print(json.dumps({"table": self.path.stem, **row}), flush=True)
            return
        self._widths = {column: max(width, len(row.get(column, ""))) for column, width in self._widths.items()}
        print("  ".join(f"{row.get(column, ''):{width}}" for column, width in self._widths.items()), flush=True)

    def _write(self, cells: list[str]) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(cells)


def _text(value: Cell) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def newest_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of the last run in a CSV; SystemExit if there are none."""
    rows = []
    if path.exists():
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    if not rows:
        raise SystemExit(f"{path} has no rows: run the benchmark first")
    return [row for row in rows if row["date"] == rows[-1]["date"]]


def parser(description: str | None, example: str, *, gpu: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have, and an example at the end of its help."""
    made = argparse.ArgumentParser(
        description=description, epilog=f"example: {example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="one round of small problems")
    made.add_argument("--json", action="store_true", help="print rows as lines of JSON")
    made.add_argument("-o", "--output", type=Path, default=RESULTS, metavar="DIR", help="folder of CSVs")
    devices = ("auto", "cpu", "cuda", "rehearsal") if gpu else ("cpu",)
    description = "auto: CUDA if available; rehearsal: the code for GPUs, run on the CPU with tiny problems"
    made.add_argument("--device", choices=devices, default=devices[0], help=description if gpu else argparse.SUPPRESS)
    return made


class Run:
    """One run of a benchmark on one device.

    Attributes:
        gpu: whether the code for GPUs runs, be it on the CPU in a rehearsal.
        failures: which contenders were wrong.
        absent: what could not be compared with.
        highlights: results for the last line of the output.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        available = torch.cuda.is_available()
        if options.device == "cuda" and not available:
            raise SystemExit(f"torch {torch.__version__} sees no CUDA device")
        self.cuda = options.device == "cuda" or (options.device == "auto" and available)
        self.device = torch.device("cuda:0" if self.cuda else "cpu")
        self.rehearsal: bool = options.device == "rehearsal"
        self.gpu = self.cuda or self.rehearsal
        self.quick: bool = options.quick or self.rehearsal
        self.output: Path = options.output
        self.failures: list[str] = []
        self.absent: set[str] = set()
        self.highlights: list[str] = []
        self._json: bool = options.json
        if self.gpu:
            allow_tf32()

    def table(self, name: str, columns: tuple[str, ...], device_column: str = "machine") -> Table:
        """Return the table ``<name>-cpu.csv`` or ``<name>-gpu.csv``."""
        if not self.gpu:
            path = self.output / f"{name}-cpu.csv"
            return Table(path, device_column, processor(), columns, json_lines=self._json)
        device = torch.cuda.get_device_name(self.device) if self.cuda else f"none, rehearsed on {processor()}"
        return Table(self.output / f"{name}-gpu.csv", "gpu", device, columns, json_lines=self._json)

    def copy_speed(self) -> float:
        """Return the bytes that a large copy on the device reads and writes per millisecond."""
        count = 1 << (20 if self.rehearsal else 30 if self.gpu else 28)
        source = torch.randint(0, 256, (count,), dtype=torch.uint8, device=self.device)  # GPUs may compress constants
        target = torch.empty_like(source)
        return 2 * count / self.time({"copy": lambda: target.copy_(source)}, 0.5)["copy"].min

    def time(
        self, contenders: Mapping[str, Runner], seconds: float, *, threads: int = 1, wall: bool = False
    ) -> dict[str, Times]:
        """Time contenders in turns, on a GPU by CUDA events unless by the `wall` clock."""
        least, seconds = (1, 0.0) if self.quick else (3, seconds)
        return take_turns(contenders, seconds=seconds, threads=threads, gpu=self.cuda and not wall, min_rounds=least)

    def refuse(self, contender: str, error: Exception) -> str:
        """Note that a contender is wrong or does not run, and return the remark for its row."""
        remark = f"WRONG: {(str(error).splitlines() or [type(error).__name__])[0]}"
        self.failures.append(f"{contender}: {remark}")
        return remark

    def finish(self) -> int:
        """Print what was absent and what was wrong, and return the exit code."""
        for line in [*(f"absent: {line}" for line in sorted(self.absent)), *self.failures]:
            print(line)
        where = [] if self._json else [f"appended to {self.output}"]
        print("; ".join([f"{len(self.failures)} wrong", *self.highlights, *where]))
        return 1 if self.failures else 0


def allow_tf32() -> None:
    """Let cuDNN search for its fastest algorithms, and float32 be computed in TF32."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True


def write_crops(folder: Path, count: int = 24, *, links: int = 0) -> str:
    """Write that many random squares of each of scikit-image's photographs into a new folder, and return its name.

    With `links`, they are JPEGs of 256×256 pixels, each with this many additional hard links.
    """
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name in PHOTOGRAPHS:
        photograph = getattr(skimage.data, name)()
        height, width = photograph.shape[:2]
        for index in range(count):
            side = int(random.integers(height // 2, height + 1))
            top, left = (int(random.integers(0, size - side + 1)) for size in (height, width))
            crop = photograph[top : top + side, left : left + side]
            if not links:
                write_png(folder / f"{name}-{index:02d}.png", crop)
                continue
            path = folder / f"{name}-{index:02d}.jpg"
            cv2.imwrite(str(path), cv2.resize(crop[:, :, ::-1], (256, 256), interpolation=cv2.INTER_AREA))
            for link in range(links):
                os.link(path, path.with_stem(f"{path.stem}-{link}"))
    return str(folder)
