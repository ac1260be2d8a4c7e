"""preimage.compat.skimage.feature.hog beside skimage.feature.hog: how exact it is, and how fast.

- hog-skimage-exactness-cpu.csv: the largest absolute difference of any feature by option, over photographs and over
  crops of odd sizes; of drawings (``visualize=True``) relative to their largest value.
- hog-skimage-speed-cpu.csv: milliseconds per call side by side; `ratio` is how many times scikit-image's speed.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.feature

import preimage
from _harness import PHOTOGRAPHS, Run, Runner, Table, parser
from preimage.compat.skimage import feature
from preimage.io import decode_image, list_images

TOLERANCE = 1e-6
PHOTOGRAPH_COUNT, SIZE_COUNT = 20, 30
SIDES = (227, 256, 1024)
SECONDS = 4.0  # for the turns of one image
EXACTNESS = ("images", "option", "count", "max_difference", "remark")
SPEED = ("image", "implementation", "threads", "milliseconds", "ratio", "remark")
THREADS = "OMP_NUM_THREADS"  # read at every call on an array

NORMS = ("L1", "L1-sqrt", "L2", "L2-Hys")
# By name; `image` is a function of the photograph (H, W, 3) uint8.
Options = dict[str, tuple[Callable[[np.ndarray], np.ndarray], dict[str, Any]]]


def gray(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def options() -> Options:
    """Return the options that are compared, each alone and some together."""
    found: Options = {f"block_norm={norm}": (gray, {"block_norm": norm}) for norm in NORMS}
    found |= {
        f"block_norm={norm}, transform_sqrt=True": (gray, {"block_norm": norm, "transform_sqrt": True})
        for norm in NORMS
    }
    found |= {f"orientations={count}": (gray, {"orientations": count}) for count in (1, 4, 6, 8, 12, 18, 36)}
    found |= {
        f"pixels_per_cell={cell}": (gray, {"pixels_per_cell": cell}) for cell in ((4, 4), (5, 9), (16, 16), (20, 11))
    }
    found |= {
        f"cells_per_block={block}": (gray, {"cells_per_block": block}) for block in ((1, 1), (2, 2), (1, 3), (4, 2))
    }
    found |= {
        f"channel_axis={axis}": (functools.partial(np.moveaxis, source=-1, destination=axis), {"channel_axis": axis})
        for axis in (0, 1, -1)
    }
    together = {"channel_axis": -1, "transform_sqrt": True, "block_norm": "L1-sqrt", "orientations": 12}
    found["channel_axis=-1, transform_sqrt=True, block_norm=L1-sqrt, orientations=12"] = (np.asarray, together)
    found |= {
        "float64 in [0, 1]": (lambda image: gray(image) / 255, {}),
        "float32 in [0, 1]": (lambda image: (gray(image) / 255).astype(np.float32), {}),
        "float64 in [0, 1], channel_axis=-1": (lambda image: image / 255, {"channel_axis": -1}),
        "float32 in [0, 1], channel_axis=-1": (lambda image: (image / 255).astype(np.float32), {"channel_axis": -1}),
        "uint16": (lambda image: gray(image).astype(np.uint16) * 257, {}),
        "visualize=True": (gray, {"visualize": True}),
        "visualize=True, channel_axis=-1, float64": (
            lambda image: image / 255,
            {"visualize": True, "channel_axis": -1},
        ),
    }
    return found


def difference(image: np.ndarray, settings: dict[str, Any]) -> float:
    """Return the largest difference from scikit-image; infinite where shapes or dtypes differ."""
    expected, result = (function(image, **settings) for function in (skimage.feature.hog, feature.hog))
    if settings.get("visualize"):
        expected, result = expected[1] / max(expected[1].max(), 1e-9), result[1] / max(expected[1].max(), 1e-9)
    if (expected.shape, expected.dtype) != (result.shape, result.dtype):
        return float("inf")
    return float(np.abs(expected - result).max())


def measure_exactness(run: Run, photographs: Sequence[np.ndarray]) -> None:
    """Append a row by set of images and option."""
    table = run.table("hog-skimage-exactness", EXACTNESS)
    sets = {f"{len(photographs)} photographs": photographs}
    sizes = list(odd_sizes(photographs, 3 if run.quick else SIZE_COUNT))
    sets[f"{len(sizes)} odd sizes"] = sizes
    largest = 0.0
    for images, members in sets.items():
        for name, (prepare, settings) in options().items():
            fitting = [image for image in members if fits(image, settings)]
            found = max((difference(prepare(image), settings) for image in fitting), default=0.0)
            largest = max(largest, found)
            remark = ""
            if not found <= TOLERANCE:
                remark = run.refuse(f"{images}, {name}", ValueError(f"{found:.1e} is above {TOLERANCE:.0e}"))
            table.add(images=images, option=name, count=len(fitting), max_difference=found, remark=remark)
    run.highlights.append(f"largest difference {largest:.1e}")


def fits(image: np.ndarray, settings: dict[str, Any]) -> bool:
    """Return whether the image has at least one block."""
    cell, block = settings.get("pixels_per_cell", (8, 8)), settings.get("cells_per_block", (3, 3))
    return all(pixels >= side * cells for pixels, side, cells in zip(image.shape[:2], cell, block, strict=True))


def odd_sizes(photographs: Sequence[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Yield crops of odd height and width, from 25 pixels to all of a photograph."""
    random = np.random.default_rng(0)
    for index in range(count):
        image = photographs[index % len(photographs)]
        height, width = (int(random.integers(12, (side - 1) // 2 + 1)) * 2 + 1 for side in image.shape[:2])
        height, width = min(height, image.shape[0]), min(width, image.shape[1])
        top, left = (
            int(random.integers(0, whole - part + 1))
            for whole, part in zip(image.shape[:2], (height, width), strict=True)
        )
        yield image[top : top + height, left : left + width]


def measure_speed(run: Run, photograph: np.ndarray) -> None:
    """Append the times of scikit-image, of the replacement with one and two threads, and of preimage.hog."""
    table = run.table("hog-skimage-speed", SPEED)
    for side in SIDES[:1] if run.quick else SIDES:
        color = cv2.resize(photograph, (side, side), interpolation=cv2.INTER_AREA)
        for name, image, settings in (("gray", gray(color), {}), ("RGB", color, {"channel_axis": -1})):
            measure_image(run, table, f"{side}x{side} {name} uint8", image, settings)


def measure_image(run: Run, table: Table, name: str, image: np.ndarray, settings: dict[str, Any]) -> None:
    planes = np.ascontiguousarray(np.moveaxis(image, -1, 0)) if image.ndim == 3 else image
    plain = functools.partial(preimage.hog, planes, variant="dalal-triggs", color="strongest")
    contenders: dict[tuple[str, int], Runner] = {
        ("scikit-image", 1): functools.partial(skimage.feature.hog, image, **settings),
        ("preimage.compat.skimage", 1): with_threads(1, functools.partial(feature.hog, image, **settings)),
        ("preimage.compat.skimage", 2): with_threads(2, functools.partial(feature.hog, image, **settings)),
        ("preimage.hog", 1): with_threads(1, plain),
        ("preimage.hog", 2): with_threads(2, plain),
    }
    times = run.time({" ".join(map(str, key)): runner for key, runner in contenders.items()}, SECONDS)
    theirs = times["scikit-image 1"]
    for (implementation, threads), found in zip(contenders, times.values(), strict=True):
        ratio = theirs.ratio(found)
        table.add(
            image=name,
            implementation=implementation,
            threads=threads,
            milliseconds=found.median,
            ratio=ratio,
            remark=f"spread {found.spread:.0%}",
        )
    best = theirs.ratio(times["preimage.compat.skimage 1"])
    run.highlights.append(f"{name} {best:.0f}×")


def with_threads(count: int, runner: Runner) -> Runner:
    """Return a function that calls another with a number of threads."""

    def call() -> object:
        os.environ[THREADS] = str(count)
        return runner()

    return call


def photographs_of(folder: Path | None, count: int) -> list[np.ndarray]:
    """Return the first photographs (H, W, 3) uint8 of a folder, or those of scikit-image."""
    if folder is None:
        return [getattr(skimage.data, name)()[..., :3] for name in PHOTOGRAPHS][:count]
    sources = list_images([str(folder)])
    if len(sources) < count:
        raise SystemExit(f"{folder} must contain at least {count} images, got {len(sources)}")
    chosen = [sources[index] for index in np.linspace(0, len(sources) - 1, count).astype(int)]
    return [decode_image(source.read(), name=source.name) for source in chosen]


def main(arguments: list[str] | None = None) -> int:
    """Append to the CSVs; 1 where a difference was too large."""
    made = parser(__doc__, "python benchmarks/bench_hog_skimage.py photographs/ --quick")
    made.add_argument("folder", type=Path, nargs="?", help="photographs; default: those of scikit-image")
    given = made.parse_args(arguments)
    run = Run(given)
    cv2.setNumThreads(1)
    before = os.environ.get(THREADS)
    photographs = photographs_of(
        given.folder, 2 if run.quick else PHOTOGRAPH_COUNT if given.folder else len(PHOTOGRAPHS)
    )
    try:
        measure_exactness(run, photographs)
        measure_speed(run, skimage.data.astronaut())
    finally:
        os.environ.pop(THREADS) if before is None else os.environ.update({THREADS: before})
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
