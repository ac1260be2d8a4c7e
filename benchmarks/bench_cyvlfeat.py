"""`preimage.compat.cyvlfeat` and the real VLFeat through the same functions, on one thread.

Appended to cyvlfeat-cpu.csv. `ratio` is how many times VLFeat's speed, in the same rounds. VLFeat is called with ctypes
(tests/helpers/real_cyvlfeat.py) instead of Cython, keypoint by keypoint in sparse SIFT, which makes it slower there.
Every result is compared with VLFeat's before it is timed.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch

from _harness import Run, WrongResultError, check, parser
from preimage.compat import cyvlfeat

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
vlfeat: Any = importlib.import_module("vlfeat")
real_cyvlfeat: Any = importlib.import_module("real_cyvlfeat")

COLUMNS = ("function", "image", "options", "milliseconds", "vlfeat_milliseconds", "ratio", "spread")
SECONDS = 4.0
TOLERANCE = 1e-2  # relative, of bytes and of HOG; values that are truncated differ by 1
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("hog", {"cell_size": 8}),
    ("hog", {"cell_size": 8, "variant": "DalalTriggs"}),
    ("dsift", {"step": 4, "size": 4}),
    ("dsift", {"step": 4, "size": 4, "fast": True}),
    ("dsift", {"step": 4, "size": 4, "geometry": (3, 3, 8)}),
    ("phow", {}),
    ("phow", {"color": "rgb"}),
    ("sift", {"compute_descriptor": True}),
    ("sift", {"compute_descriptor": True, "magnification": 5}),
)
OURS = {
    "hog": cyvlfeat.hog.hog,
    "dsift": cyvlfeat.sift.dsift,
    "phow": cyvlfeat.sift.phow,
    "sift": cyvlfeat.sift.sift,
}


def features_of(result: Any) -> torch.Tensor:
    """Return what is compared: HOG, or descriptors."""
    return torch.from_numpy(np.asarray(result[1] if isinstance(result, tuple) else result)).double()


def main(arguments: list[str] | None = None) -> int:
    """Append to the CSV; 1 where a result was wrong."""
    options = parser(__doc__, "python benchmarks/bench_cyvlfeat.py").parse_args(arguments)
    run = Run(options)
    if vlfeat.library() is None:
        raise SystemExit("VLFeat: libvl.so.1 (package libvlfeat1) is not installed")
    os.environ["OMP_NUM_THREADS"] = "1"
    table = run.table("cyvlfeat", COLUMNS, "processor")
    photograph = skimage.data.astronaut().astype(np.float32)
    image = np.ascontiguousarray(photograph[100:220, 180:300] if run.quick else photograph)
    for function, given in CALLS:
        pixels = image if function in ("hog", "phow") else np.ascontiguousarray(image[..., 1])
        ours = functools.partial(OURS[function], pixels, **given)
        theirs = functools.partial(getattr(real_cyvlfeat, function), pixels, **given)
        written = ", ".join(f"{name}={value}" for name, value in given.items())
        try:
            check(f"{function} {written}", features_of(ours()), features_of(theirs()), TOLERANCE)
        except WrongResultError as error:
            run.refuse(function, error)
            continue
        times = run.time({"ours": ours, "theirs": theirs}, SECONDS)
        table.add(
            function=function,
            image=f"{image.shape[0]}x{image.shape[1]}",
            options=written,
            milliseconds=times["ours"].median,
            vlfeat_milliseconds=times["theirs"].median,
            ratio=times["theirs"].ratio(times["ours"]),
            spread=times["ours"].spread,
        )
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
