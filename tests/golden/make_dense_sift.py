"""Create dense_sift.npz with the real VLFeat and photographs of scikit-image.

Run it as `PYTHONPATH=helpers python -m golden.make_dense_sift` in tests/.

For every case: `<name>.image` uint8 (H, W), `<name>.features` float32 (128, h, w) and
`<name>.norms` float32 (h, w), where VLFeat was given the image in float32 in [0, 1].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skimage.data

import vlfeat


class Case(NamedTuple):
    """A crop (top, left, height, width) of a photograph's green channel, with parameters of the descriptors."""

    photograph: str
    crop: tuple[int, int, int, int]
    options: dict[str, Any]


CASES = {
    "default": Case("astronaut", (60, 200, 33, 37), {}),
    "flat": Case("chelsea", (100, 140, 34, 31), {"window": "flat"}),
    "phow": Case("coffee", (120, 260, 28, 30), {"window": "flat", "step": 5, "bin_size": 6, "window_size": 1.5}),
    "dense": Case("astronaut", (150, 240, 14, 16), {"step": 1, "bin_size": 3}),
    "apart": Case("rocket", (200, 300, 41, 52), {"step": 9, "bin_size": 5, "window_size": 1.0}),
    "bounds": Case("coffee", (180, 330, 45, 40), {"step": 4, "bin_size": 6, "bounds": (5, 3, 33, 38)}),
    "smallest": Case("chelsea", (110, 130, 13, 13), {}),
}


def main() -> None:
    """Write dense_sift.npz next to this file."""
    arrays: dict[str, np.ndarray] = {}
    for name, (photograph, (top, left, height, width), options) in CASES.items():
        image = getattr(skimage.data, photograph)()[top : top + height, left : left + width, 1]
        features, norms, _ = vlfeat.dense_sift(image.astype(np.float32) / np.float32(255), **options)
        arrays[f"{name}.image"] = image
        arrays[f"{name}.features"] = features
        arrays[f"{name}.norms"] = norms.astype(np.float32)
    path = Path(__file__).with_name("dense_sift.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
