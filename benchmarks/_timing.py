"""Timing in turns, the speed of copying, what the machine is, and the tables that the results are kept in."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from preimage.ops import _native

Runner = Callable[[], object]
Cell = str | float | None
Cells = Mapping[str, Cell]

REPEATS = 3  # calls in a row at each turn, so that most find the caches as they left them
SLOW = 500.0  # milliseconds; what takes longer gets fewer turns, of one call each
TIMES = ("milliseconds", "median", "min")  # columns that hold milliseconds
PACKAGES = ("opencv-python", "opencv-python-headless", "scikit-image", "kornia", "triton")


def medians(
    runners: Mapping[str, Runner], rounds: int, *, repeats: int = REPEATS, slow_rounds: int = 3
) -> dict[str, float]:
    """Milliseconds a call, the contenders taking turns; a first call of each warms up.

    With no further turn (`slow_rounds` 0, or `rounds` 0) the first call is what counts.
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(rounds + 1):
        for name, run in runners.items():
            slow = turn > 0 and times[name][0] > SLOW
            if slow and turn > slow_rounds:
                continue
            for _ in range(1 if slow or turn == 0 else repeats):
                begin = time.perf_counter()
                run()
                times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values[1:] or values) for name, values in times.items()}


def copy_speed() -> float:
    """Bytes a millisecond, read and written, of one thread copying memory that no cache holds."""
    source = np.ones(256 << 20, dtype=np.uint8)  # not zeros: pages nobody wrote to are all the same one
    target = np.ones_like(source)
    return 2 * source.nbytes / medians({"copy": lambda: np.copyto(target, source)}, 3)["copy"]


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in lines if ":" in line}
    return f"{fields.get('model name', platform.processor())} family {fields.get('cpu family')} {fields.get('model')}"


def peak_megabytes() -> float:
    """The largest resident size of this process. (`getrusage` counts that of the process which started it as well.)"""
    with open("/proc/self/status") as status:
        return next(float(line.split()[1]) / 1e3 for line in status if line.startswith("VmHWM"))


def load() -> str:
    """The machine's load over the last minute, and its cores: figures taken on a busy machine mean little."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def versions() -> str:
    """What was measured, and beside what."""
    parts = [f"preimage {version('preimage')} {_native.compiler}", f"torch {torch.__version__}"]
    for package in PACKAGES:
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return "; ".join([*parts, f"Python {platform.python_version()}"])


class Table:
    """Prints rows and appends each to a CSV at once, so that a run that is stopped keeps what it has measured."""

    def __init__(
        self,
        path: Path,
        machine: Mapping[str, str],
        columns: tuple[str, ...],
        line: Callable[[Cells], str] | None = None,
    ) -> None:
        self._line = line or _line
        date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%MZ")
        self._common = {"date": date, **machine, "versions": versions()}
        self._columns = (*self._common, *columns)
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            self._write(self._columns)
            return
        with path.open(newline="") as file:
            header = next(csv.reader(file), [])
        if header != list(self._columns):
            raise SystemExit(f"{path} has the columns {', '.join(header)}: move it away to start a new one")

    def add(self, **cells: Cell) -> None:
        """A row; columns that are not named stay empty."""
        row = {**self._common, **{name: _text(name, value) for name, value in cells.items() if value is not None}}
        self._write([row.pop(name, "") for name in self._columns])
        if row:
            raise ValueError(f"{self._path} has no column {', '.join(row)}")
        print(self._line(cells), flush=True)

    def _write(self, cells: tuple[str, ...] | list[str]) -> None:
        with self._path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(cells)


def _line(cells: Cells) -> str:
    parts = [f"{cells['descriptor']:19} {cells['images']:15} {cells['implementation']:34}"]
    for name, unit, width in (
        ("milliseconds", "ms", 9),
        ("ratio", "x", 6),
        ("share_of_copy_speed", "of copying", 5),
    ):
        value = cells.get(name)
        if value is not None or name != "share_of_copy_speed":
            parts.append(" " * (width + 1 + len(unit)) if value is None else f"{_text(name, value):>{width}} {unit}")
    return " ".join([*parts, str(cells.get("remark") or "")]).rstrip()


def _text(name: str, value: str | float) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if name in TIMES:
        return f"{value:.{4 if value < 100 else 1}f}"
    digits = {
        "gigabytes_per_second": 1,
        "share_of_copy_speed": 3,
        "spread": 3,
        "waiting": 3,
        "images_per_second": 1,
    }.get(name, 2)
    return f"{value:.{digits}f}"
