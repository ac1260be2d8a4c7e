"""Images a second of ``preimage extract``, from encoded photographs to the finished feature file, by representation.

One row a representation, appended to results/extraction-cpu.csv. `images_per_core_second` divides by the processor time
of all threads, decoding and writing included, so that it does not depend on how many cores there were, and little on
what else they did.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from _timing import Cells, Table, load, processor
from preimage import representations
from preimage.pipelines.extract import extract

_COLUMNS = (
    *("representation", "variant", "images", "size", "dtype", "gigabytes", "seconds", "core_seconds"),
    *("images_per_second", "images_per_core_second"),
)
_CASES = (("hog", {}), ("lbp", {}), ("dense-sift", {}), ("sift", {}), ("sift", {"variant": "opencv"}))


def _line(cells: Cells) -> str:
    return (
        f"{cells['representation']:11} {cells['variant']:15} {cells['images']} images, {cells['gigabytes']:.1f} GB: "
        f"{cells['images_per_second']:7.1f} images/s, {cells['images_per_core_second']:7.1f} per core"
    )


def main() -> None:
    """Extracts the features of all images into a temporary file, one representation after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", metavar="PATH", help="folders, image files or tar shards")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels (default: %(default)s)")
    parser.add_argument("--dtype", default="float16", help="as stored (default: %(default)s)")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where the feature files go for a while")
    parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results", metavar="DIR")
    options = parser.parse_args()
    table = Table(options.results / "extraction-cpu.csv", {"machine": processor(), "load": load()}, _COLUMNS, _line)
    for name, parameters in _CASES:
        representation = representations.create(name, **parameters)
        with tempfile.TemporaryDirectory(prefix="preimage-extraction-", dir=options.scratch) as folder:
            start, before = time.perf_counter(), sum(os.times()[:2])
            summary = extract(
                representation,
                options.images,
                Path(folder) / "features.safetensors",
                size=options.size,
                dtype=options.dtype,
            )
            seconds, core_seconds = time.perf_counter() - start, sum(os.times()[:2]) - before
        table.add(
            representation=name,
            variant=representation.spec.variant,
            images=summary.images,
            size=options.size,
            dtype=options.dtype,
            gigabytes=summary.bytes / 1e9,
            seconds=seconds,
            core_seconds=core_seconds,
            images_per_second=summary.images / seconds,
            images_per_core_second=summary.images / core_seconds,
        )


if __name__ == "__main__":
    main()
