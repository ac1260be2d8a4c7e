"""Features drawn for the eye: how each representation is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.spec import Spec
from preimage.viz.glyphs.dense_sift import sift_glyphs
from preimage.viz.glyphs.hog import hog_glyphs
from preimage.viz.glyphs.keypoints import keypoint_grid, sift_keypoints
from preimage.viz.glyphs.lbp import lbp_map

__all__ = [
    "draw_features",
    "has_drawing",
    "hog_glyphs",
    "keypoint_grid",
    "lbp_map",
    "sift_glyphs",
    "sift_keypoints",
]

Array = npt.NDArray[Any]
Picture = npt.NDArray[np.uint8]


def _cell_pixels(features: Array, tile: int) -> int:
    return max(6, round(tile / max(features.shape[1:])))


def _cell_size(spec: Spec) -> int:
    assert spec.stride is not None  # every representation drawn here is a map
    return spec.stride


# Spec, features (C, h, w), side of the picture wanted and the image; a representation without an entry has no drawing.
_DRAWINGS: dict[str, Callable[[Spec, Array, int, Array | None], Picture]] = {
    "hog": lambda _spec, features, tile, _image: hog_glyphs(features, _cell_pixels(features, tile)),
    "lbp": lambda _spec, features, tile, _image: lbp_map(features, _cell_pixels(features, tile)),
    "dense-sift": lambda _spec, features, tile, _image: sift_glyphs(features, tile),
    "sift": lambda spec, features, tile, image: keypoint_grid(features, _cell_size(spec), image=image, tile=tile),
}


def has_drawing(spec: Spec) -> bool:
    """Can `draw_features` draw features of this spec?"""
    return spec.representation in _DRAWINGS


def draw_features(spec: Spec, features: Array, tile: int, *, image: Array | None = None) -> Picture | None:
    """Features (C, h, w) as a picture about `tile` pixels large; ``None`` if there is no drawing for them.

    Keypoints are drawn over `image`, (H, W, 3), if it is given, and else on dark paper; what is dense covers it anyway.
    """
    drawing = _DRAWINGS.get(spec.representation)
    return None if drawing is None else drawing(spec, features, tile, image)
