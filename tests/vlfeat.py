"""The real VLFeat's HOG through ctypes: Debian's and Ubuntu's package libvlfeat1, no compiler needed."""

from __future__ import annotations

import ctypes
import functools
import os

import numpy as np

_FLOATS = ctypes.POINTER(ctypes.c_float)
_SIZE = ctypes.c_uint64  # vl_size on 64-bit machines
_UOCTTI = 1

_SIGNATURES = {
    "vl_hog_new": (ctypes.c_void_p, ctypes.c_int, _SIZE, ctypes.c_int),
    "vl_hog_delete": (None, ctypes.c_void_p),
    "vl_hog_put_image": (None, ctypes.c_void_p, _FLOATS, _SIZE, _SIZE, _SIZE, _SIZE),
    "vl_hog_extract": (None, ctypes.c_void_p, _FLOATS),
    "vl_hog_get_width": (_SIZE, ctypes.c_void_p),
    "vl_hog_get_height": (_SIZE, ctypes.c_void_p),
    "vl_set_num_threads": (None, _SIZE),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded library, or None where it is not installed. VLFEAT_LIBRARY names one elsewhere."""
    for name in (os.environ.get("VLFEAT_LIBRARY"), "libvl.so.1", "libvl.so"):
        if not name:
            continue
        try:
            loaded = ctypes.CDLL(name)
        except OSError:
            continue
        for function, (result, *arguments) in _SIGNATURES.items():
            getattr(loaded, function).restype = result
            getattr(loaded, function).argtypes = arguments
        loaded.vl_set_num_threads(1)
        return loaded
    return None


class Hog:
    """One `VlHog` object, UoCTTI with 9 orientations; it keeps its buffers from image to image."""

    def __init__(self) -> None:
        loaded = library()
        if loaded is None:
            raise OSError("VLFeat is not installed: apt-get install libvlfeat1")
        self._vl = loaded
        self._hog = loaded.vl_hog_new(_UOCTTI, 9, 0)

    def __del__(self) -> None:
        if hasattr(self, "_hog"):
            self._vl.vl_hog_delete(self._hog)

    def __call__(self, image: np.ndarray, cell_size: int = 8) -> np.ndarray:
        """(H, W) or (C, H, W), H and W above 3, used as float32 -> float32 (31, Hc, Wc)."""
        image = np.ascontiguousarray(image, dtype=np.float32)
        channels = image.shape[0] if image.ndim == 3 else 1
        height, width = image.shape[-2:]
        pixels = image.ctypes.data_as(_FLOATS)
        self._vl.vl_hog_put_image(self._hog, pixels, width, height, channels, cell_size)
        rows, columns = self._vl.vl_hog_get_height(self._hog), self._vl.vl_hog_get_width(self._hog)
        features = np.empty((31, rows, columns), dtype=np.float32)
        self._vl.vl_hog_extract(self._hog, features.ctypes.data_as(_FLOATS))
        return features


def hog(image: np.ndarray, cell_size: int = 8) -> np.ndarray:
    """`Hog` for a single image."""
    return Hog()(image, cell_size)
