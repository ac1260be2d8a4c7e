"""Create lbp.npz with the real VLFeat and photographs of scikit-image.

Run it as `PYTHONPATH=helpers python -m golden.make_lbp` in tests/.

For every crop: `<name>.image` uint8 (H, W), and `<name>.<cell size>` float32 (58, H // cell, W // cell), where VLFeat
was given the image in float32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data

import vlfeat

# name -> (photograph, top, left, height, width, cell sizes)
CROPS = {
    "face": ("astronaut", 60, 180, 72, 64, (16,)),
    "eye": ("chelsea", 90, 120, 61, 83, (16, 8)),
    "cup": ("coffee", 120, 250, 67, 50, (16, 32)),
    "man": ("camera", 60, 200, 47, 62, (16, 5)),
    "tiny": ("astronaut", 100, 220, 17, 16, (16, 4, 1)),
}


def main() -> None:
    """Write lbp.npz next to this file."""
    arrays: dict[str, np.ndarray] = {}
    for name, (photograph, top, left, height, width, cell_sizes) in CROPS.items():
        image = getattr(skimage.data, photograph)()[top : top + height, left : left + width]
        arrays[f"{name}.image"] = image if image.ndim == 2 else np.ascontiguousarray(image[..., 1])
        for cell_size in cell_sizes:
            arrays[f"{name}.{cell_size}"] = vlfeat.lbp(arrays[f"{name}.image"], cell_size)
    path = Path(__file__).with_name("lbp.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
