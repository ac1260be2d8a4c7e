"""Images per second of whole commands, in one process with one and with two threads and in two with one thread each.

One row per job and contender, appended to scale-cpu.csv. The two processes are those of an array job, each with half of
the images. Contenders take turns, so that a change of the machine's load affects all alike. All columns are medians:

- `start`: wall time of the command on one image for each process, in seconds; of hours it is nothing, so the rates are
  without it.
- `images_per_second`, and `ratio` to one process with one thread in the same round.
- `per_core`: images per second of processor time. A cluster's size follows from it, and other load on the machine
  changes it least.
- `bytes`: size of the output for an image.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from _harness import Run, parser, write_crops
from preimage.io import ImageSource, list_images

CONTENDERS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}
HALVES = 2  # of the images, one for each of two processes
JOBS = ("extract hog", "extract lbp", "extract dense-sift", "extract sift", "invert hog")
COLUMNS = ("job", "contender", "images", "rounds", "start", "images_per_second", "ratio", "per_core", "bytes")


class Cost(NamedTuple):
    """Wall and processor time of some processes, in seconds."""

    wall: float
    processor: float


def execute(commands: list[list[str]], threads: int) -> Cost:
    """Run commands at the same time; all must succeed."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for command in commands]
    codes = [process.wait() for process in running]
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if any(codes):
        raise SystemExit(f"failed: {commands[0]}")
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def commands(job: str, folder: Path, processes: int) -> list[list[str]]:
    """Return the commands of a job, one for each process, on the images or the features in a folder."""
    action, representation = job.split()
    preimage = [sys.executable, "-m", "preimage", action]
    found = []
    for process in range(processes):
        output = ["-o", str(folder / f"{action}-{process}-of-{processes}")]
        if action == "extract":
            halves = [str(folder / f"half-{half}") for half in range(process, HALVES, processes)]
            found.append([*preimage, representation, *halves, *output, "--dtype", "float16", "--no-resume"])
        else:
            store = str(folder / "extract-0-of-1")
            found.append([*preimage, store, *output, "--shard", f"{process}/{processes}"])
    return found


def measure(job: str, few: Path, all_images: Path, images: int, rounds: int) -> dict[str, list[tuple[float, Cost]]]:
    """Return the start in seconds and the images per second of wall and processor time, by contender and round."""
    found: dict[str, list[tuple[float, Cost]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, (processes, threads) in CONTENDERS.items():
            start, whole = (execute(commands(job, folder, processes), threads) for folder in (few, all_images))
            more = images - HALVES
            rates = Cost(more / (whole.wall - start.wall), more / (whole.processor - start.processor))
            found[name].append((start.wall, rates))
    return found


def write_halves(folder: Path, sources: list[ImageSource]) -> None:
    """Write the images to a folder for each half."""
    for index, source in enumerate(sources):
        half = folder / f"half-{index % HALVES}"
        half.mkdir(parents=True, exist_ok=True)
        (half / f"{index:06d}{Path(source.member or source.path).suffix}").write_bytes(source.read())


def output_bytes(folder: Path) -> int:
    """Return the size of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(arguments: list[str] | None = None) -> int:
    """Measure the jobs."""
    made = parser(__doc__, "python benchmarks/bench_scale.py photographs/")
    made.add_argument("images", nargs="*", metavar="PATH", help="images, folders or tars (default: scikit-image's)")
    made.add_argument("--count", type=int, default=2000, help="number of images (default: %(default)s)")
    made.add_argument("--only", default=",".join(JOBS), help="jobs, separated by commas (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    options = made.parse_args(arguments)
    run = Run(options)
    table = run.table("scale", COLUMNS)
    with tempfile.TemporaryDirectory(prefix="preimage-scale-") as name:
        few, all_images = Path(name) / "few", Path(name) / "all"
        paths = options.images or [write_crops(Path(name) / "crops", 2 if run.quick else 24)]
        sources = list_images(paths)[: options.count]
        write_halves(few, sources[:HALVES])
        write_halves(all_images, sources)
        for job in options.only.split(","):
            action, representation = job.split()
            if action == "invert":
                for folder in (few, all_images):
                    execute(commands(f"extract {representation}", folder, 1), 1)
            found = measure(job, few, all_images, len(sources), 1 if run.quick else options.rounds)
            for contender, rounds in found.items():
                base = found[next(iter(CONTENDERS))]
                table.add(
                    job=job,
                    contender=contender,
                    images=len(sources),
                    rounds=len(rounds),
                    start=statistics.median(start for start, _ in rounds),
                    images_per_second=statistics.median(rates.wall for _, rates in rounds),
                    ratio=statistics.median(
                        one.wall / other.wall for (_, one), (_, other) in zip(rounds, base, strict=True)
                    ),
                    per_core=statistics.median(rates.processor for _, rates in rounds),
                    bytes=output_bytes(all_images / f"{action}-0-of-1") / len(sources),
                )
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
