"""Compute the results of VLFeat's MATLAB toolbox and cyvlfeat, by calling the library as their sources do.

MATLAB's memory is column-major, so the library receives the transposed image. See
``toolbox/misc/vl_hog.c``, ``toolbox/misc/vl_lbp.c`` and ``toolbox/sift/vl_dsift.c`` of VLFeat 0.9.21, and
``cyhog.pyx``, ``cylbp.pyx`` and ``cysift.pyx`` of cyvlfeat. Images are (H, W) float32 in [0, 1].
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

import vlfeat

_FLOATS = ctypes.POINTER(ctypes.c_float)
_SIZE = ctypes.c_uint64
_UOCTTI, _UNIFORM = 1, 0


class _Geometry(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("bins_t", "bins_x", "bins_y", "bin_size_x", "bin_size_y")]


class _Frame(ctypes.Structure):
    _fields_ = [(name, ctypes.c_double) for name in ("x", "y", "s", "norm")]


class _Dsift(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("width", "height", "step_x", "step_y")),
        *((name, ctypes.c_int) for name in ("min_x", "min_y", "max_x", "max_y")),
        ("geometry", _Geometry),
        ("flat", ctypes.c_int),
        ("window_size", ctypes.c_double),
        ("frame_count", ctypes.c_int),
        ("descriptor_size", ctypes.c_int),
        ("frames", ctypes.POINTER(_Frame)),
        ("descriptors", _FLOATS),
    ]


_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "vl_lbp_new": (ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
    "vl_lbp_delete": (None, ctypes.c_void_p),
    "vl_lbp_process": (None, ctypes.c_void_p, _FLOATS, _FLOATS, _SIZE, _SIZE, _SIZE),
    "vl_dsift_new_basic": (ctypes.POINTER(_Dsift), ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    "vl_dsift_delete": (None, ctypes.POINTER(_Dsift)),
    "vl_dsift_process": (None, ctypes.POINTER(_Dsift), _FLOATS),
}


def _library() -> ctypes.CDLL:
    loaded = vlfeat.library()
    assert loaded is not None
    own = ctypes.CDLL(loaded._name)  # separate signatures, independent of those that the other driver declares
    for name, (result, *arguments) in _SIGNATURES.items():
        getattr(own, name).restype = result
        getattr(own, name).argtypes = arguments
    for name in ("vl_hog_new", "vl_hog_delete", "vl_hog_put_image", "vl_hog_extract"):
        getattr(own, name).restype = getattr(loaded, name).restype
        getattr(own, name).argtypes = getattr(loaded, name).argtypes
    return own


def _hog(pixels: np.ndarray, cell_size: int, transposed: bool) -> np.ndarray:
    vl, (height, width) = _library(), pixels.shape
    hog = vl.vl_hog_new(_UOCTTI, 9, int(transposed))
    vl.vl_hog_put_image(hog, pixels.ctypes.data_as(_FLOATS), width, height, 1, cell_size)
    out = np.empty((31, *((side + cell_size // 2) // cell_size for side in (height, width))), np.float32)
    vl.vl_hog_extract(hog, out.ctypes.data_as(_FLOATS))
    vl.vl_hog_delete(hog)
    return out


def _lbp(pixels: np.ndarray, width: int, height: int, cell_size: int, transposed: bool) -> np.ndarray:
    vl = _library()
    lbp = vl.vl_lbp_new(_UNIFORM, int(transposed))
    out = np.zeros((58, height // cell_size, width // cell_size), np.float32)
    vl.vl_lbp_process(lbp, out.ctypes.data_as(_FLOATS), pixels.ctypes.data_as(_FLOATS), width, height, cell_size)
    vl.vl_lbp_delete(lbp)
    return out


def _dsift(pixels: np.ndarray, step: int, bin_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return frames (N, 2), 0-based x and y, and descriptors (N, 128), in the library's order."""
    vl, (height, width) = _library(), pixels.shape
    dsift = vl.vl_dsift_new_basic(width, height, step, bin_size)
    vl.vl_dsift_process(dsift, pixels.ctypes.data_as(_FLOATS))
    found = dsift.contents
    frames = np.array([(found.frames[k].x, found.frames[k].y) for k in range(found.frame_count)])
    descriptors = np.ctypeslib.as_array(found.descriptors, (found.frame_count, 128)).copy()
    vl.vl_dsift_delete(dsift)
    return frames, descriptors


def library_hog(image: np.ndarray, cell_size: int) -> np.ndarray:
    """Return the library's HOG (31, h, w)."""
    return _hog(np.ascontiguousarray(image), cell_size, transposed=False)


def library_lbp(image: np.ndarray, cell_size: int) -> np.ndarray:
    """Return the library's LBP (58, h, w)."""
    return _lbp(np.ascontiguousarray(image), image.shape[1], image.shape[0], cell_size, transposed=False)


def library_dsift(image: np.ndarray, step: int, bin_size: int) -> np.ndarray:
    """Return the library's dense SIFT (128, h, w)."""
    frames, descriptors = _dsift(np.ascontiguousarray(image), step, bin_size)
    height, width = (len(np.unique(frames[:, axis])) for axis in (1, 0))
    return descriptors.reshape(height, width, 128).transpose(2, 0, 1)


def matlab_hog(image: np.ndarray, cell_size: int) -> np.ndarray:
    """Return the result of ``vl_hog(image, cell_size)``, (h, w, 31)."""
    return _hog(np.ascontiguousarray(image.T), cell_size, transposed=True).T


def matlab_lbp(image: np.ndarray, cell_size: int) -> np.ndarray:
    """Return the result of ``vl_lbp(image, cell_size)``, (h, w, 58)."""
    height, width = image.shape
    return _lbp(np.ascontiguousarray(image.T), height, width, cell_size, transposed=True).T


def matlab_dsift(image: np.ndarray, step: int, bin_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``[f, d] = vl_dsift(image, 'Step', step, 'Size', bin_size, 'FloatDescriptors')``, (2, N) and (128, N)."""
    frames, descriptors = _dsift(np.ascontiguousarray(image.T), step, bin_size)
    turned = np.empty_like(descriptors)
    for y in range(4):
        for x in range(4):
            for t in range(8):  # vl_dsift_transpose_descriptor
                turned[:, 8 * (y + 4 * x) + (2 - t) % 8] = descriptors[:, 8 * (x + 4 * y) + t]
    return frames[:, ::-1].T + 1, np.minimum(512 * turned, 255).T


def cyvlfeat_lbp(image: np.ndarray, cell_size: int) -> np.ndarray:
    """Return the result of ``cyvlfeat.misc.lbp(image, cell_size)``, (h, w, 58), for a square image."""
    height, width = image.shape
    out = _lbp(np.ascontiguousarray(image), height, width, cell_size, transposed=True)
    return out.reshape(height // cell_size, width // cell_size, 58)


def cyvlfeat_dsift(image: np.ndarray, step: int, bin_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``cyvlfeat.sift.dsift(image, step, bin_size, float_descriptors=True)``, (N, 2) and (N, 128)."""
    frames, descriptors = _dsift(np.ascontiguousarray(image), step, bin_size)
    return frames[:, ::-1].astype(np.float32), np.minimum(512 * descriptors, 255)


def all_of(image: np.ndarray) -> dict[str, np.ndarray]:
    """Return all results for a square gray image: HOG with cells of 8, LBP of 16, SIFT with step 16 and bin size 4."""
    f, d = matlab_dsift(image, 16, 4)
    ft, dt = matlab_dsift(np.ascontiguousarray(image.T), 16, 4)
    fc, dc = cyvlfeat_dsift(image, 16, 4)
    wide = image[: image.shape[0] * 3 // 4]
    fw, dw = matlab_dsift(wide, 16, 4)
    ftw, dtw = matlab_dsift(np.ascontiguousarray(wide.T), 16, 4)
    return {
        "library_hog": library_hog(wide, 8),
        "matlab_hog": matlab_hog(wide, 8),
        "library_lbp": library_lbp(image, 16),
        "matlab_lbp": matlab_lbp(image, 16),
        "matlab-transposed_lbp": matlab_lbp(np.ascontiguousarray(image.T), 16),
        "cyvlfeat_lbp": cyvlfeat_lbp(image, 16),
        "library_lbp_wide": library_lbp(wide, 16),
        "matlab_lbp_wide": matlab_lbp(wide, 16),
        "matlab-transposed_lbp_wide": matlab_lbp(np.ascontiguousarray(wide.T), 16),
        "library_dsift": library_dsift(image, 16, 4),
        "matlab_dsift_descriptors": d.astype(np.uint8),
        "matlab_dsift_frames": f,
        "matlab-transposed_dsift_descriptors": dt.astype(np.uint8),
        "matlab-transposed_dsift_frames": ft,
        "cyvlfeat_dsift_descriptors": dc,
        "cyvlfeat_dsift_frames": fc,
        "library_dsift_wide": library_dsift(wide, 16, 4),
        "matlab_dsift_wide_descriptors": dw,
        "matlab_dsift_wide_frames": fw,
        "matlab-transposed_dsift_wide_descriptors": dtw.astype(np.uint8),
        "matlab-transposed_dsift_wide_frames": ftw,
    }
