"""Compute local binary patterns like cyvlfeat's `lbp`."""

from __future__ import annotations

import operator

import numpy as np
import numpy.typing as npt

from preimage.compat.cyvlfeat.images import gray_plane
from preimage.ops import lbp as lbp_op


def lbp(image: npt.ArrayLike, cell_size: int) -> npt.NDArray[np.float32]:
    """Compute histograms of local binary patterns.

    No release of cyvlfeat contains this function. It is that of a pull request of 2016, with the axes that are
    documented there.

    Args:
        image: (H, W) or (H, W, 1), used as float32.
        cell_size: Side of a cell in pixels, at least 1.

    Returns:
        (H // cell_size, W // cell_size, 58) float32, see `preimage.lbp`.

    Raises:
        ValueError: An argument is ``None``, the image has another shape or is smaller than a cell, or `cell_size` is
            below 1.
    """
    if image is None or cell_size is None:
        raise ValueError("image and cell_size must not be None")
    features = lbp_op.lbp(gray_plane(image), cell_size=operator.index(cell_size))
    return np.ascontiguousarray(features.transpose(1, 2, 0))
