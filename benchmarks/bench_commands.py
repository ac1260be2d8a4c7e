"""Whole commands, start-up included; inversion beside its network; and a large feature store.

- commands-cpu.csv: wall time of commands in processes of their own; `over` is the time above the command named as its
  `floor`, an empty interpreter or one that imports torch.
- inversion-cpu.csv: images per second of `preimage invert` from a feature store, and of the network alone on the same
  features; `share` is the first over the second. With a GPU, only this is measured, on both devices, and appended to
  inversion-gpu.csv.
- store-cpu.csv: a store of many short vectors: seconds to write and to open it, for 1000 look-ups by key (the first
  touches every shard, and hashes it), and the largest resident size of a process that does only that.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _harness import Run, Runner, Table, parser, write_crops
from preimage.inverters import Inverter
from preimage.io import list_images
from preimage.pipelines.extract import extract
from preimage.pipelines.invert import invert
from preimage.spec import Spec
from preimage.store import FeatureStore, open_writer, shard_length

SECONDS = 30.0
COLUMNS = {
    "commands": ("command", "seconds", "floor", "over"),
    "inversion": ("inverter", "images", "threads", "network_per_second", "images_per_second", "share"),
    "store": (
        *("entries", "numbers", "write_seconds", "open_seconds", "first_seconds", "again_seconds", "peak_megabytes"),
    ),
}

READ_STORE = """
import json, sys, time
import numpy as np
from preimage.store import FeatureStore
start = time.perf_counter()
store = FeatureStore(sys.argv[1])
seconds = {"open_seconds": time.perf_counter() - start}
keys = [f"{number:07d}" for number in np.random.default_rng(1).integers(0, len(store), 1000)]
for name in ("first_seconds", "again_seconds"):
    start = time.perf_counter()
    for key in keys:
        store[key]
    seconds[name] = time.perf_counter() - start
with open("/proc/self/status") as status:
    peak = next(float(line.split()[1]) / 1e3 for line in status if line.startswith("VmHWM"))
print(json.dumps({**seconds, "peak_megabytes": peak}))
"""


def execute(command: list[str | Path]) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True, capture_output=True)


def measure_commands(run: Run, table: Table, folder: Path, images: list[str]) -> None:
    """Measure commands on one image."""
    python, preimage = [sys.executable], [sys.executable, "-m", "preimage"]
    source = list_images(images)[0]
    image = folder / f"image{Path(source.member or source.path).suffix}"
    image.write_bytes(source.read())
    execute([*preimage, "extract", "hog", image, "-o", folder / "one.hog"])
    timed: dict[str, list[str | Path]] = {
        "python": [*python, "-c", "pass"],
        "import torch": [*python, "-c", "import torch"],
        "preimage --help": [*preimage, "--help"],
    }
    for name in ("hog", "lbp", "dense-sift", "sift"):
        store = folder / f"{name}.store"
        timed[f"preimage extract {name}"] = [*preimage, "extract", name, image, "-o", store, "--no-resume"]
    timed["preimage invert"] = [*preimage, "invert", folder / "one.hog", "-o", folder / "out"]
    runners: dict[str, Runner] = {name: functools.partial(execute, command) for name, command in timed.items()}
    times = {name: found.median / 1e3 for name, found in run.time(runners, SECONDS).items()}
    for name, time_of in times.items():
        floor = "import torch" if name == "preimage invert" else "python"
        table.add(command=name, seconds=time_of, floor=floor, over=time_of - times[floor])


def measure_inversion(run: Run, table: Table, folder: Path, images: list[str], name: str, device: str) -> None:
    """Measure the images per second of `invert`, and of its network."""
    inverter = Inverter.load(name).to(device)
    size = 64 if run.rehearsal else 256
    extract(inverter.spec.representation, images, folder / "features", size=size, device="cpu")
    store = FeatureStore(folder / "features")
    features = torch.from_numpy(np.stack([store[row] for row in range(len(store))])).to(device)

    def network() -> None:
        with torch.inference_mode():
            for batch in features.split(16):
                inverter(batch, size=(size, size))
            if device == "cuda":
                torch.cuda.synchronize()

    runners: dict[str, Runner] = {
        "network": network,
        "invert": lambda: invert(folder / "features", folder / "images", inverter=inverter, device=device),
    }
    threads = torch.get_num_threads()
    times = run.time(runners, 3.0 if run.gpu else SECONDS, threads=threads, wall=True)
    rates = {key: 1e3 * len(store) / found.median for key, found in times.items()}
    table.add(
        inverter=name,
        images=len(store),
        threads=threads,
        network_per_second=rates["network"],
        images_per_second=rates["invert"],
        share=rates["invert"] / rates["network"],
        **({"device": device} if run.gpu else {}),
    )
    run.highlights.append(f"{name} {device} {rates['invert']:.0f} images/s")


def measure_store(table: Table, folder: Path, entries: int) -> None:
    """Measure a store of many vectors of 10 numbers."""
    values = np.random.default_rng(0).standard_normal((entries, 10)).astype(np.float32)
    options: dict[str, Any] = {"count": entries, "length": shard_length(40), "source": {}}
    begin = time.perf_counter()
    with open_writer(folder / "many", Spec("vector", "user", 10, None), "float32", **options) as store:
        for number in store.index.missing:
            rows = store.index.positions(number)
            with store.shard(number) as shard:
                sizes = [(1, 1)] * len(rows)
                shard.append([f"{row:07d}" for row in rows], values[rows.start : rows.stop], sizes, sizes)
        store.finish()
    written = time.perf_counter() - begin
    command = [sys.executable, "-c", READ_STORE, str(folder / "many")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    table.add(entries=entries, numbers=10, write_seconds=written, **json.loads(done.stdout))


def main(arguments: list[str] | None = None) -> int:
    """Measure all three, or those named."""
    made = parser(__doc__, "python benchmarks/bench_commands.py photographs/ --only commands,inversion", gpu=True)
    made.add_argument("images", nargs="*", metavar="PATH", help="images, folders or tars (default: scikit-image's)")
    made.add_argument("--only", default=",".join(COLUMNS), help="(default: %(default)s)")
    made.add_argument("--inverter", default="hog-compact", help="(default: %(default)s)")
    options = made.parse_args(arguments)
    run = Run(options)
    chosen = ["inversion"] if run.gpu else options.only.split(",")
    with tempfile.TemporaryDirectory(prefix="preimage-commands-") as name:
        folder = Path(name)
        images = options.images or [write_crops(folder / "images", 24 if run.cuda or not run.quick else 1)]
        more = ("device",) if run.gpu else ()
        tables = {part: run.table(part, (*columns, *more)) for part, columns in COLUMNS.items() if part in chosen}
        if "commands" in chosen:
            measure_commands(run, tables["commands"], folder, images)
        if "inversion" in chosen:
            for device in ("cuda", "cpu") if run.cuda else ("cpu",):
                measure_inversion(run, tables["inversion"], folder, images, options.inverter, device)
        if "store" in chosen:
            measure_store(tables["store"], folder, 10_000 if run.quick else 1_000_000)
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
