"""Convert sizes of images for comparisons."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pairs(sizes: NDArray[np.int32]) -> tuple[tuple[int, ...], ...]:
    """Return an array (N, 2) of sizes as a tuple of pairs."""
    return tuple(map(tuple, sizes.tolist()))
