"""The real VLFeat's sparse SIFT through ctypes, as its `sift` command runs it."""

from __future__ import annotations

import ctypes

import numpy as np

import vlfeat

_FLOATS = ctypes.POINTER(ctypes.c_float)


class _Keypoint(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("o", "ix", "iy", "is_")),
        *((name, ctypes.c_float) for name in ("x", "y", "s", "sigma")),
    ]


class _Filter(ctypes.Structure):
    """`VlSiftFilt` up to its thresholds; its setters are inline functions of the header."""

    _fields_ = [
        *((name, ctypes.c_double) for name in ("sigman", "sigma0", "sigmak", "dsigma0")),
        *((name, ctypes.c_int) for name in ("width", "height", "O", "S", "o_min", "s_min", "s_max", "o_cur")),
        *((name, _FLOATS) for name in ("temp", "octave", "dog")),
        *((name, ctypes.c_int) for name in ("octave_width", "octave_height")),
        ("gaussFilter", _FLOATS),
        ("gaussFilterSigma", ctypes.c_double),
        ("gaussFilterWidth", ctypes.c_uint64),
        ("keys", ctypes.POINTER(_Keypoint)),
        ("nkeys", ctypes.c_int),
        ("keys_res", ctypes.c_int),
        ("peak_thresh", ctypes.c_double),
        ("edge_thresh", ctypes.c_double),
    ]


def sift(
    image: np.ndarray, *, octaves: int = -1, first: int = 0, peak: float = 0.0, edge: float = 10.0
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) -> frames (N, 4): x, y, σ, angle, and descriptors (N, 128), in VLFeat's order."""
    loaded = vlfeat.library()
    assert loaded is not None
    new, detect = loaded.vl_sift_new, loaded.vl_sift_detect
    new.restype = ctypes.POINTER(_Filter)
    loaded.vl_sift_calc_keypoint_descriptor.argtypes = (ctypes.c_void_p, _FLOATS, ctypes.c_void_p, ctypes.c_double)
    pixels = np.ascontiguousarray(image, np.float32)
    height, width = pixels.shape
    handle = new(width, height, octaves, 3, first)
    handle.contents.peak_thresh, handle.contents.edge_thresh = peak, edge
    frames, descriptors = [], []
    angles, descriptor = (ctypes.c_double * 4)(), np.empty(128, np.float32)
    last = loaded.vl_sift_process_first_octave(handle, pixels.ctypes.data_as(_FLOATS))
    while not last:
        detect(handle)
        for index in range(handle.contents.nkeys):
            key = handle.contents.keys[index]
            for each in range(loaded.vl_sift_calc_keypoint_orientations(handle, angles, ctypes.byref(key))):
                loaded.vl_sift_calc_keypoint_descriptor(
                    handle, descriptor.ctypes.data_as(_FLOATS), ctypes.addressof(key), angles[each]
                )
                frames.append((key.x, key.y, key.sigma, angles[each]))
                descriptors.append(descriptor.copy())
        last = loaded.vl_sift_process_next_octave(handle)
    loaded.vl_sift_delete(handle)
    return np.array(frames).reshape(-1, 4), np.array(descriptors, np.float32).reshape(-1, 128)
