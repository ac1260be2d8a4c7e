"""Images per second of `preimage extract`, beside what its parts allow, by representation.

One row per representation and disk, appended to extraction-cpu.csv; with a GPU one for each device, appended to
extraction-gpu.csv. In the same run each part is timed alone, on one thread: decoding and fitting an image, computing
its features on the CPU, hashing them, and writing as many bytes to that disk.
`floor` is threads / (the sum of these): the images per second of threads that never wait for each other; `share` is how
much of it extraction reaches, `bytes_ratio` the size of the store over that of the features, and `peak_megabytes` the
largest resident size of the process, which has torch loaded (about 200 MB) as the command does not.
"""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from _harness import Run, Runner, parser, take_turns, write_crops
from preimage.io import list_images
from preimage.ops._images import cpu_threads
from preimage.pipelines.extract import extract, extract_with_summary
from preimage.pipelines.image_loading import read
from preimage.representations import create_representation

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("hog", {}), ("lbp", {}), ("dense-sift", {}), ("sift", {}), ("sift", {"variant": "opencv"})),
)
COLUMNS = (
    *("representation", "variant", "disk", "images", "size", "dtype", "threads", "gigabytes", "seconds"),
    *("decode_ms", "kernel_ms", "hash_ms", "write_ms", "images_per_second", "floor", "share", "bytes_ratio"),
    "peak_megabytes",
)
GPU_COLUMNS = (*COLUMNS[:2], "device", *COLUMNS[2:])
PRELOADED = ("_harness", "preimage.pipelines.extract")  # must not start CUDA, which does not survive a fork
SAMPLE, QUICK_SAMPLE = 200, 40  # images that the parts are timed with, at most
FILE = 64 << 20  # bytes, of a file of the store
MAX_WRITTEN = 4 << 30  # bytes that the disk is timed with


def write_seconds(folder: Path, count: int) -> float:
    """Return the seconds per byte of writing about so many bytes, fsync included: a disk's cache takes some at once."""
    size = min(max(count, 1 << 20), MAX_WRITTEN)
    block = np.random.default_rng(0).bytes(min(size, FILE))
    begin = time.perf_counter()
    for number in range(size // len(block)):
        with open(folder / f"speed-{number}", "wb", buffering=0) as file:
            file.write(block)
            os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    for path in folder.glob("speed-*"):
        path.unlink()
    return seconds / (size // len(block) * len(block))


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Measure one representation on one disk, in a process of its own."""
    representation = create_representation(case["name"], **case["parameters"])
    sources = list_images(case["images"])
    sample = sources[:: max(1, len(sources) // case["sample"])][: case["sample"]]
    size, folder = case["size"], Path(case["folder"])
    pixels = [item.pixels for item in (read(source, size) for source in sample) if item.pixels is not None]
    cells = representation.feature_size(size, size)
    assert cells is not None
    features = np.empty((1, representation.spec.channels, *cells), case["dtype"])
    parts: dict[str, Runner] = {
        "decode": lambda: [read(source, size) for source in sample],
        "kernel": lambda: [representation.compute_into(image[None], features, threads=1) for image in pixels],
        "hash": lambda: [hashlib.sha256(features.data) for _ in sample],
    }
    alone = {name: times.min / len(sample) for name, times in take_turns(parts, seconds=0).items()}
    alone["write"] = 1e3 * write_seconds(folder, len(sources) * features.nbytes) * features.nbytes
    if case["device"] == "cuda":  # its start takes a second
        extract(representation, sources[:64], folder / "first", size=size, dtype=case["dtype"], device="cuda")
    begin = time.perf_counter()
    summary = extract_with_summary(
        representation, sources, folder / "store", size=size, dtype=case["dtype"], device=case["device"]
    )
    seconds = time.perf_counter() - begin
    rate, floor = summary.images / seconds, 1e3 * cpu_threads() / sum(alone.values())
    with open("/proc/self/status") as status:
        peak = next(float(line.split()[1]) / 1e3 for line in status if line.startswith("VmHWM"))
    return {
        "representation": case["name"],
        "variant": representation.spec.variant,
        **{name: case[name] for name in ("device", "disk", "size", "dtype")},
        **{f"{name}_ms": milliseconds for name, milliseconds in alone.items()},
        "images": summary.images,
        "threads": cpu_threads(),
        "gigabytes": summary.bytes / 1e9,
        "seconds": seconds,
        "images_per_second": rate,
        "floor": floor,
        "share": rate / floor,
        "bytes_ratio": summary.bytes / (summary.images * features.nbytes),
        "peak_megabytes": peak,
    }


def main(arguments: list[str] | None = None) -> int:
    """Extract the features of all images into temporary stores, one representation after the other."""
    made = parser(__doc__, "python benchmarks/bench_extraction.py photographs/ --disk /dev/shm --disk /tmp", gpu=True)
    made.add_argument("images", nargs="*", metavar="PATH", help="images, folders or tars (default: scikit-image's)")
    made.add_argument("--size", type=int, default=256, help="side of the images in pixels (default: %(default)s)")
    made.add_argument("--dtype", default="float16", help="of the stored features (default: %(default)s)")
    made.add_argument("--only", metavar="NAMES", help="representations, separated by commas")
    made.add_argument("--disk", action="append", metavar="DIR", help="folder for the stores; repeatable")
    options = made.parse_args(arguments)
    run = Run(options)
    table = run.table("extraction", GPU_COLUMNS if run.gpu else COLUMNS)
    only = options.only.split(",") if options.only else ["hog", "lbp"] if run.quick else dict(CASES)
    cases = [case for case in CASES if case[0] in only]
    devices = ("cuda", "cpu") if run.cuda else ("cpu",)
    # A server that has imported everything starts a process for each case within a fraction of a second.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    for disk in options.disk or [tempfile.gettempdir()]:
        with tempfile.TemporaryDirectory(prefix="preimage-extraction-", dir=disk) as temporary:
            count, links = (24, 20) if run.cuda else (1 if run.quick else 24, 0)
            images = options.images or [write_crops(Path(temporary) / "images", count, links=links)]
            for number, ((name, parameters), device) in enumerate(itertools.product(cases, devices)):
                folder = Path(temporary) / str(number)
                folder.mkdir()
                case = {"name": name, "parameters": parameters, "images": images, "folder": str(folder)}
                case |= {"disk": "memory" if disk.startswith("/dev/shm") else "disk", "device": device}
                case |= {"size": options.size, "dtype": options.dtype}
                case |= {"sample": QUICK_SAMPLE if run.quick else SAMPLE}
                with ProcessPoolExecutor(1, context) as pool:
                    row = pool.submit(measure, case).result()
                table.add(**{name: value for name, value in row.items() if run.gpu or name != "device"})
                run.highlights.append(f"{name} {device} {row['images_per_second']:.0f} images/s")
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
