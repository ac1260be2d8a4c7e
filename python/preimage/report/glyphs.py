"""Features drawn for the eye: how each representation is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.report.glyphs_hog import hog_glyphs
from preimage.report.glyphs_lbp import lbp_map
from preimage.report.glyphs_sift import sift_glyphs
from preimage.spec import Spec

__all__ = ["draw_features", "has_drawing", "hog_glyphs", "lbp_map", "sift_glyphs"]

Array = npt.NDArray[Any]
Picture = npt.NDArray[np.uint8]


def _cell_pixels(features: Array, tile: int) -> int:
    return max(6, round(tile / max(features.shape[1:])))


# Features (C, h, w) and the side of the picture wanted; a representation without an entry has no drawing.
_DRAWINGS: dict[str, Callable[[Array, int], Picture]] = {
    "hog": lambda features, tile: hog_glyphs(features, _cell_pixels(features, tile)),
    "lbp": lambda features, tile: lbp_map(features, _cell_pixels(features, tile)),
    "dense-sift": sift_glyphs,
}


def has_drawing(spec: Spec) -> bool:
    """Can `draw_features` draw features of this spec?"""
    return spec.representation in _DRAWINGS


def draw_features(spec: Spec, features: Array, tile: int) -> Picture | None:
    """Features (C, h, w) as a picture about `tile` pixels large; ``None`` if there is no drawing for them."""
    drawing = _DRAWINGS.get(spec.representation)
    return None if drawing is None else drawing(features, tile)
