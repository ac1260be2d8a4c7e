"""Create arguments of the native module's functions as `preimage.ops` does."""

from __future__ import annotations

from typing import Any

import numpy as np


def described(array: np.ndarray, **changes: Any) -> tuple[Any, ...]:
    """Return (address, shape, strides, dtype, device) of an array, with some fields replaced."""
    fields = {
        "address": array.ctypes.data,
        "shape": array.shape,
        "strides": array.strides,
        "dtype": array.dtype.name,
        "device": "cpu",
    }
    return tuple((fields | changes).values())
