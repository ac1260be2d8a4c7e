"""Create sift.npz with the real VLFeat and photographs of scikit-image.

Run it as `PYTHONPATH=helpers python -m golden.make_sift` in tests/; it needs Debian's libvlfeat1.

For every crop: `<name>.image` uint8 (H, W), given to VLFeat divided by 255 in float32; `<name>.frames` float32 (N, 4),
x, y, sigma and angle, and `<name>.descriptors` float32 (N, 128), all zeros where VLFeat does not write them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import skimage.data

import vlfeat

# name -> (photograph, top, left, height, width, options)
CROPS: dict[str, tuple[str, int, int, int, int, dict[str, Any]]] = {
    "face": ("astronaut", 60, 180, 96, 91, {}),
    "eye": ("chelsea", 90, 120, 61, 83, {"first_octave": -1, "peak_threshold": 0.01}),
    "cup": ("coffee", 120, 250, 97, 80, {"levels": 5, "edge_threshold": 5.0}),
    "man": ("camera", 60, 200, 130, 128, {"first_octave": 1}),
    "tiny": ("astronaut", 100, 220, 17, 16, {}),
}


def main() -> None:
    """Write sift.npz next to this file."""
    arrays: dict[str, np.ndarray] = {}
    for name, (photograph, top, left, height, width, options) in CROPS.items():
        image = getattr(skimage.data, photograph)()[top : top + height, left : left + width]
        arrays[f"{name}.image"] = image if image.ndim == 2 else np.ascontiguousarray(image[..., 1])
        grey = arrays[f"{name}.image"].astype(np.float32) / np.float32(255)
        frames, arrays[f"{name}.descriptors"] = vlfeat.sift(grey, **options)
        arrays[f"{name}.frames"] = frames.astype(np.float32)
        print(name, len(frames))
    path = Path(__file__).with_name("sift.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
