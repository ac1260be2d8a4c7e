"""Images a second of ``preimage extract``, beside what its parts allow, by representation.

One row a representation and folder, appended to results/extraction-cpu.csv. In the same run each part is timed alone,
on one thread: decoding an image and fitting it, computing its features, hashing them, and writing as much to that disk,
in files of 64 MiB, fsync included. `floor` is threads / (the sum of these), in images a second: what threads that never
wait for each other would reach; `share` is how much of it extraction reaches, from listing the images to the finished
store. `bytes_ratio` is the store's size over that of the features, and `peak_megabytes` the largest resident size of
the process, which has torch loaded (about 200 MB) as the command does not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from _timing import Cells, Table, load, peak_megabytes, processor
from preimage.io import list_images
from preimage.ops._images import cpu_threads
from preimage.pipelines.extract import extract
from preimage.pipelines.loading import read
from preimage.representations import create_representation

_COLUMNS = (
    *("representation", "variant", "disk", "images", "size", "dtype", "threads", "gigabytes", "seconds"),
    *("decode_ms", "kernel_ms", "hash_ms", "write_ms", "images_per_second", "floor", "share", "bytes_ratio"),
    "peak_megabytes",
)
_CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("hog", {}), ("lbp", {}), ("dense-sift", {}), ("sift", {}), ("sift", {"variant": "opencv"})),
)
_SAMPLE = 200  # images that the parts are timed with
_MOST_WRITTEN = 4 << 30  # bytes that the disk is timed with
_FILE = 64 << 20
_BLOCK = 1 << 22


def _line(cells: Cells) -> str:
    return (
        f"{cells['representation']:11} {cells['variant']:15} {cells['disk']:9} {cells['images']} images: "
        f"{cells['images_per_second']:7.1f} of {cells['floor']:7.1f} images/s, share {cells['share']:.2f}; "
        f"{cells['bytes_ratio']:.3f} bytes a byte, {cells['peak_megabytes']:.0f} MB"
    )


def _shortest(work: Callable[[], object], rounds: int = 3) -> float:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def _write_seconds(folder: Path, count: int) -> float:
    """Seconds a byte that is written, as many bytes as the store will have: a disk's cache takes some at once."""
    block = np.random.default_rng(0).bytes(_BLOCK)
    files = max(1, min(count, _MOST_WRITTEN) // _FILE)
    begin = time.perf_counter()
    for number in range(files):
        with open(folder / f"speed-{number}", "wb", buffering=0) as file:
            for _ in range(_FILE // _BLOCK):
                file.write(block)
            os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    for number in range(files):
        (folder / f"speed-{number}").unlink()
    return seconds / (files * _FILE)


def _measure(case: dict[str, Any]) -> Cells:
    """One representation into one folder, in a process of its own."""
    representation = create_representation(case["name"], **case["parameters"])
    sources = list_images(case["images"])
    spread = [sources[index * len(sources) // _SAMPLE] for index in range(_SAMPLE)]
    decode = _shortest(lambda: [read(source, case["size"]) for source in spread]) / _SAMPLE
    pixels = [item.pixels for item in (read(source, case["size"]) for source in spread) if item.pixels is not None]
    cells = representation.feature_size(case["size"], case["size"])
    assert cells is not None
    features = np.empty((1, representation.spec.channels, *cells), case["dtype"])
    kernel = _shortest(
        lambda: [representation.compute_into(image[None], features, threads=1) for image in pixels]
    ) / len(pixels)
    hashed = _shortest(lambda: [hashlib.sha256(features.data) for _ in range(_SAMPLE)]) / _SAMPLE
    folder = Path(case["folder"])
    written = _write_seconds(folder, len(sources) * features.nbytes) * features.nbytes
    begin = time.perf_counter()
    summary = extract(representation, sources, folder / "store", size=case["size"], dtype=case["dtype"], device="cpu")
    seconds = time.perf_counter() - begin
    rate, floor = summary.images / seconds, cpu_threads() / (decode + kernel + hashed + written)
    return {
        "representation": case["name"],
        "variant": representation.spec.variant,
        "disk": case["disk"],
        "images": summary.images,
        "size": case["size"],
        "dtype": case["dtype"],
        "threads": cpu_threads(),
        "gigabytes": summary.bytes / 1e9,
        "seconds": seconds,
        "decode_ms": 1e3 * decode,
        "kernel_ms": 1e3 * kernel,
        "hash_ms": 1e3 * hashed,
        "write_ms": 1e3 * written,
        "images_per_second": rate,
        "floor": floor,
        "share": rate / floor,
        "bytes_ratio": summary.bytes / (summary.images * features.nbytes),
        "peak_megabytes": peak_megabytes(),
    }


def main() -> None:
    """Extracts the features of all images into a temporary store, one representation after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", metavar="PATH", help="folders, image files or tar shards")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels (default: %(default)s)")
    parser.add_argument("--dtype", default="float16", help="as stored (default: %(default)s)")
    parser.add_argument("--only", metavar="NAMES", help="representations to measure, with commas between them")
    parser.add_argument("--disk", action="append", type=Path, metavar="DIR", help="for the stores; repeatable")
    parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results", metavar="DIR")
    options = parser.parse_args()
    table = Table(options.results / "extraction-cpu.csv", {"machine": processor(), "load": load()}, _COLUMNS, _line)
    for disk in options.disk or [Path(tempfile.gettempdir())]:
        for name, parameters in _CASES:
            if options.only is not None and name not in options.only.split(","):
                continue
            with tempfile.TemporaryDirectory(prefix="preimage-extraction-", dir=disk) as folder:
                case = {"name": name, "parameters": parameters, "images": options.images, "folder": folder}
                case |= {"disk": "memory" if str(disk).startswith("/dev/shm") else "disk"}
                case |= {"size": options.size, "dtype": options.dtype}
                command = [sys.executable, __file__, "--case", json.dumps(case)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            table.add(**json.loads(done.stdout))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(_measure(json.loads(sys.argv[2]))))
    else:
        main()
