"""Create cyvlfeat.npz with the real VLFeat, called as cyvlfeat does, and photographs of scikit-image.

Run it as `PYTHONPATH=helpers python -m golden.make_cyvlfeat` in tests/; it needs Debian's libvlfeat1.

`image` is uint8 (H, W, 3), given as float32 in [0, 255], to phow in [0, 1]; dsift and sift get its green channel.
`<case>.0` and, if there are two results, `<case>.1` are those of the case.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import skimage.data

import real_cyvlfeat

# (y, x, scale, angle), not sorted by scale
FRAMES = np.array([[20.5, 30.25, 4.0, 0.5], [33.0, 12.0, 1.7, 2.0], [25.0, 40.0, 9.0, 5.5]], np.float32)
FLOATS = {"float_descriptors": True}
DESCRIBED = {"compute_descriptor": True, **FLOATS}
PHOW = {"sizes": (4, 6), "step": 15, **FLOATS}

# name -> (function, options)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "hog": ("hog", {"cell_size": 8, "visualize": True}),
    "hog of 15 pixels, 6 orientations": ("hog", {"cell_size": 15, "n_orientations": 6}),
    "hog, bilinear": ("hog", {"cell_size": 9, "bilinear_interpolation": True}),
    "hog, one orientation": ("hog", {"cell_size": 9, "n_orientations": 1, "bilinear_interpolation": True}),
    "Dalal-Triggs": ("hog", {"cell_size": 8, "variant": "DalalTriggs", "visualize": True}),
    "Dalal-Triggs, bilinear": ("hog", {"cell_size": 8, "variant": "DalalTriggs", "bilinear_interpolation": True}),
    "Dalal-Triggs, 4 orientations": ("hog", {"cell_size": 11, "variant": "DalalTriggs", "n_orientations": 4}),
    "dsift": ("dsift", {"step": 6, "norm": True, **FLOATS}),
    "dsift as bytes": ("dsift", {"step": 7}),
    "dsift, steps": ("dsift", {"step": [9, 8], "size": 4, "bounds": [2, 5, 40, 50], **FLOATS}),
    "dsift, window": ("dsift", {"step": 8, "window_size": 3, **FLOATS}),
    "dsift, fast": ("dsift", {"step": 8, "size": 4, "fast": True, "norm": True, **FLOATS}),
    "dsift, sizes": ("dsift", {"step": 8, "size": [3, 5], "norm": True, **FLOATS}),
    "dsift, geometry": ("dsift", {"step": 8, "geometry": [3, 2, 6], "norm": True, **FLOATS}),
    "dsift, fast geometry": ("dsift", {"step": 8, "geometry": [2, 3, 4], "size": 4, "fast": True, **FLOATS}),
    "dsift, one bin": ("dsift", {"step": 8, "geometry": [1, 1, 1], **FLOATS}),
    **{f"phow, {color}": ("phow", {**PHOW, "color": color}) for color in ("gray", "rgb", "hsv", "opponent")},
    "phow, gaussian": ("phow", {**PHOW, "fast": False, "magnification": 3, "contrast_threshold": 0.03}),
    "sift": ("sift", DESCRIBED),
    "sift, frames only": ("sift", {"first_octave": -1, "peak_thresh": 2.0}),
    "sift as bytes": ("sift", {"compute_descriptor": True, "n_levels": 4}),
    "sift, octaves": ("sift", {"n_octaves": 1, **DESCRIBED}),
    "sift, window": ("sift", {"magnification": 5, "window_size": 1.9, **DESCRIBED}),
    "sift, thresholds": ("sift", {"edge_thresh": 4, "norm_thresh": 60.0, **DESCRIBED}),
    "sift of frames": ("sift", {"frames": FRAMES, **DESCRIBED}),
    "sift of frames, oriented": ("sift", {"frames": FRAMES, "force_orientations": True, **DESCRIBED}),
    "sift of frames, wide": ("sift", {"frames": FRAMES, "magnification": 7, "first_octave": -1, **DESCRIBED}),
}


def arguments(name: str, image: np.ndarray) -> tuple[str, np.ndarray, dict[str, Any]]:
    """Return function, image as float32 and options of a case; frames are copied, because cyvlfeat sorts them."""
    function, options = CASES[name]
    pixels = (image if function in ("hog", "phow") else image[..., 1]).astype(np.float32)
    pixels = pixels / np.float32(255) if function == "phow" else pixels
    return function, pixels, {key: np.copy(value) if key == "frames" else value for key, value in options.items()}


def results(found: Any) -> list[np.ndarray]:
    """Return one or two results as a list."""
    return list(found) if isinstance(found, tuple) else [found]


def main() -> None:
    """Write cyvlfeat.npz next to this file."""
    image = skimage.data.astronaut()[80:134, 190:247]
    arrays = {"image": image}
    for name in CASES:
        function, pixels, options = arguments(name, image)
        for index, result in enumerate(results(getattr(real_cyvlfeat, function)(pixels, **options))):
            arrays[f"{name}.{index}"] = result
            print(name, result.shape, result.dtype)
    path = Path(__file__).with_name("cyvlfeat.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
