"""Whole commands, start-up included, beside what they cannot do without; inversion beside its network; a large store.

Three tables, one row a measurement, appended to results/:

- commands-cpu.csv: wall time of commands in processes of their own, in turns; `over` is the time above the command that
  the row names as its floor (an empty interpreter, or one that imports torch).
- inversion-cpu.csv: images a second of ``preimage invert`` from a feature store, and of the network alone on the same
  features, batches and threads, in turns; `share` is the first over the second.
- store-cpu.csv: a store of many short vectors: seconds to open it, for random look-ups by key (the first touches every
  shard, and hashes it), and the largest resident size of a process that does only that.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from _timing import Cells, Table, load, medians, processor
from preimage.inverters import Inverter
from preimage.pipelines.extract import extract
from preimage.pipelines.invert import invert
from preimage.spec import Spec
from preimage.store import FeatureStore, open_writer, shard_length

RESULTS = Path(__file__).resolve().parent / "results"

_STORE = """
import json, sys, time
import numpy as np
from preimage.store import FeatureStore
start = time.perf_counter()
store = FeatureStore(sys.argv[1])
opened = time.perf_counter() - start
keys = [f"{number:07d}" for number in np.random.default_rng(1).integers(0, len(store), int(sys.argv[2]))]
start = time.perf_counter()
for key in keys:
    store[key]
first = time.perf_counter() - start
start = time.perf_counter()
for key in keys:
    store[key]
again = time.perf_counter() - start
with open("/proc/self/status") as status:
    peak = next(float(line.split()[1]) / 1e3 for line in status if line.startswith("VmHWM"))
print(json.dumps({"open_seconds": opened, "first_seconds": first, "again_seconds": again, "peak_megabytes": peak}))
"""


def _commands(folder: Path, image: Path, rounds: int, results: Path) -> None:
    """Time of commands on one image."""
    python = [sys.executable]
    preimage = [sys.executable, "-m", "preimage"]
    subprocess.run([*preimage, "extract", "hog", image, "-o", folder / "one.hog"], check=True, capture_output=True)
    commands = {
        "python": ([*python, "-c", "pass"], "python"),
        "import torch": ([*python, "-c", "import torch"], "python"),
        "preimage --help": ([*preimage, "--help"], "python"),
        **{
            f"preimage extract {name}": (
                [*preimage, "extract", name, image, "-o", folder / f"{name}.store", "--no-resume"],
                "python",
            )
            for name in ("hog", "lbp", "dense-sift", "sift")
        },
        "preimage invert": ([*preimage, "invert", folder / "one.hog", "-o", folder / "out"], "import torch"),
    }

    def runner(command: list[str | Path]) -> None:
        subprocess.run(command, check=True, capture_output=True)

    times = medians(
        {name: lambda command=command: runner(command) for name, (command, _) in commands.items()},  # type: ignore[misc]
        rounds,
        repeats=1,
        slow_rounds=rounds,
    )
    header = {"machine": processor(), "load": load()}
    table = Table(results / "commands-cpu.csv", header, ("command", "seconds", "floor", "over"), _command_line)
    for name, (_, floor) in commands.items():
        table.add(command=name, seconds=times[name] / 1e3, floor=floor, over=(times[name] - times[floor]) / 1e3)


def _command_line(cells: Cells) -> str:
    return f"{cells['command']:28} {cells['seconds']:6.2f} s, {cells['over']:5.2f} s over {cells['floor']}"


def _inversion(folder: Path, images: list[str], name: str, rounds: int, results: Path) -> None:
    """Images a second of the command's function, beside those of the network."""
    inverter = Inverter.load(name)
    extract(inverter.spec.representation, images, folder / "features", size=256)
    store = FeatureStore(folder / "features")
    batches = [
        torch.from_numpy(np.stack([store[row] for row in range(first, min(first + 16, len(store)))]))
        for first in range(0, len(store), 16)
    ]

    def network() -> None:
        with torch.inference_mode():
            for batch in batches:
                inverter(batch, size=(256, 256))

    runners = {"network": network, "invert": lambda: invert(folder / "features", folder / "out", inverter=inverter)}
    times = medians(runners, rounds, repeats=1, slow_rounds=rounds)
    columns = ("inverter", "images", "threads", "network_per_second", "images_per_second", "share")
    table = Table(results / "inversion-cpu.csv", {"machine": processor(), "load": load()}, columns, _inversion_line)
    rates = {key: 1e3 * len(store) / value for key, value in times.items()}
    table.add(
        inverter=name,
        images=len(store),
        threads=torch.get_num_threads(),
        network_per_second=rates["network"],
        images_per_second=rates["invert"],
        share=rates["invert"] / rates["network"],
    )


def _inversion_line(cells: Cells) -> str:
    return (
        f"{cells['inverter']}: {cells['images_per_second']:.1f} of {cells['network_per_second']:.1f} images/s, "
        f"share {cells['share']:.2f}"
    )


def _store(folder: Path, entries: int, results: Path) -> None:
    """A store of many vectors of 10 numbers."""
    length, values = shard_length(40), np.random.default_rng(0).standard_normal((entries, 10)).astype(np.float32)
    start = time.perf_counter()
    with open_writer(
        folder / "many", Spec("vector", "user", 10, None), "float32", count=entries, length=length, source={}
    ) as store:
        for number in store.index.missing:
            rows = store.index.positions(number)
            with store.shard(number) as shard:
                sizes = [(1, 1)] * len(rows)
                shard.append([f"{row:07d}" for row in rows], values[rows.start : rows.stop], sizes, sizes)
        store.finish()
    written = time.perf_counter() - start
    done = subprocess.run(
        [sys.executable, "-c", _STORE, folder / "many", "1000"], check=True, capture_output=True, text=True
    )
    columns = (
        "entries",
        "numbers",
        "write_seconds",
        "open_seconds",
        "first_seconds",
        "again_seconds",
        "peak_megabytes",
    )
    table = Table(results / "store-cpu.csv", {"machine": processor(), "load": load()}, columns, _store_line)
    table.add(entries=entries, write_seconds=written, **json.loads(done.stdout))


def _store_line(cells: Cells) -> str:
    return (
        f"{cells['entries']} entries: open {cells['open_seconds']:.2f} s, look-ups {cells['first_seconds']:.3f} s, "
        f"again {cells['again_seconds']:.4f} s, {cells['peak_megabytes']:.0f} MB"
    )


def main() -> None:
    """Measure all three, or those named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", metavar="PATH", help="photographs to invert; folders or tar shards")
    parser.add_argument("--one", type=Path, required=True, metavar="IMAGE", help="the image of the commands on one")
    parser.add_argument("--only", default="commands,inversion,store", help="(default: %(default)s)")
    parser.add_argument("--inverter", default="hog-compact", help="(default: %(default)s)")
    parser.add_argument("--entries", type=int, default=1_000_000, help="of the store (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    options = parser.parse_args()
    chosen = options.only.split(",")
    with tempfile.TemporaryDirectory(prefix="preimage-commands-") as name:
        folder = Path(name)
        if "commands" in chosen:
            _commands(folder, options.one, options.rounds, options.results)
        if "inversion" in chosen:
            _inversion(folder, options.images, options.inverter, options.rounds, options.results)
        if "store" in chosen:
            _store(folder, options.entries, options.results)


if __name__ == "__main__":
    main()
