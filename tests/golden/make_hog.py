"""Create hog.npz with the real VLFeat and photographs of scikit-image.

Run it as `PYTHONPATH=helpers python -m golden.make_hog` in tests/.

For every crop: `<name>.image` uint8 (H, W, 3), and `<name>.<colour>.<cell size>` float32 (31, Hc, Wc), where VLFeat
was given the three channels (strongest) or their luma, both in float32 in [0, 1].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data

import vlfeat

# name -> (photograph, top, left, height, width, cell sizes)
CROPS = {
    "face": ("astronaut", 60, 180, 72, 64, (8,)),
    "eye": ("chelsea", 90, 120, 61, 83, (8, 7)),
    "cup": ("coffee", 120, 250, 67, 50, (8, 16)),
    "sky": ("rocket", 10, 10, 47, 62, (8, 5)),
    "tiny": ("astronaut", 100, 220, 12, 9, (8, 4, 1)),
}


def luma(image: np.ndarray) -> np.ndarray:
    """Convert (H, W, 3) uint8 to (H, W) float32, Rec. 601, rounded step by step in float32."""
    red, green, blue = (image[..., channel].astype(np.float32) / np.float32(255) for channel in range(3))
    return (np.float32(0.299) * red + np.float32(0.587) * green) + np.float32(0.114) * blue


def main() -> None:
    """Write hog.npz next to this file."""
    arrays: dict[str, np.ndarray] = {}
    for name, (photograph, top, left, height, width, cell_sizes) in CROPS.items():
        image = getattr(skimage.data, photograph)()[top : top + height, left : left + width]
        arrays[f"{name}.image"] = image
        for cell_size in cell_sizes:
            arrays[f"{name}.luma.{cell_size}"] = vlfeat.hog(luma(image), cell_size)
            planes = image.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
            arrays[f"{name}.strongest.{cell_size}"] = vlfeat.hog(planes, cell_size)
    path = Path(__file__).with_name("hog.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
