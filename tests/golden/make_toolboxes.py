"""Create toolboxes.npz with the real VLFeat.

Run it as `PYTHONPATH=helpers python -m golden.make_toolboxes` in tests/.

`image` uint8 (64, 64), and of it what VLFeat's MATLAB toolbox and cyvlfeat return, see `toolboxes.all_of`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data

import toolboxes


def main() -> None:
    """Write toolboxes.npz next to this file."""
    image = skimage.data.camera()[100:164, 180:244]
    path = Path(__file__).with_name("toolboxes.npz")
    np.savez_compressed(path, image=image, **toolboxes.all_of(image.astype(np.float32) / np.float32(255)))
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
