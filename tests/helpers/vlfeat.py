"""Call the real VLFeat's HOG, LBP, dense and sparse SIFT with ctypes: the package libvlfeat1 of Debian and Ubuntu."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

_FLOATS = ctypes.POINTER(ctypes.c_float)
_SIZE = ctypes.c_uint64  # vl_size on 64-bit machines
_VARIANTS = {"dalal-triggs": 0, "uoctti": 1}
_UNIFORM = 0

_SIGNATURES = {
    "vl_hog_new": (ctypes.c_void_p, ctypes.c_int, _SIZE, ctypes.c_int),
    "vl_hog_delete": (None, ctypes.c_void_p),
    "vl_hog_put_image": (None, ctypes.c_void_p, _FLOATS, _SIZE, _SIZE, _SIZE, _SIZE),
    "vl_hog_put_polar_field": (None, ctypes.c_void_p, _FLOATS, _FLOATS, ctypes.c_int, _SIZE, _SIZE, _SIZE),
    "vl_hog_set_use_bilinear_orientation_assignments": (None, ctypes.c_void_p, ctypes.c_int),
    "vl_hog_extract": (None, ctypes.c_void_p, _FLOATS),
    "vl_hog_render": (None, ctypes.c_void_p, _FLOATS, _FLOATS, _SIZE, _SIZE),
    "vl_hog_get_dimension": (_SIZE, ctypes.c_void_p),
    "vl_hog_get_glyph_size": (_SIZE, ctypes.c_void_p),
    "vl_hog_get_width": (_SIZE, ctypes.c_void_p),
    "vl_hog_get_height": (_SIZE, ctypes.c_void_p),
    "vl_dsift_new": (ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
    "vl_dsift_delete": (None, ctypes.c_void_p),
    "vl_dsift_process": (None, ctypes.c_void_p, _FLOATS),
    "_vl_dsift_update_buffers": (None, ctypes.c_void_p),
    "vl_lbp_new": (ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
    "vl_lbp_delete": (None, ctypes.c_void_p),
    "vl_lbp_process": (None, ctypes.c_void_p, _FLOATS, _FLOATS, _SIZE, _SIZE, _SIZE),
    "vl_sift_new": (ctypes.c_void_p, *[ctypes.c_int] * 5),
    "vl_sift_delete": (None, ctypes.c_void_p),
    "vl_sift_process_first_octave": (ctypes.c_int, ctypes.c_void_p, _FLOATS),
    "vl_sift_process_next_octave": (ctypes.c_int, ctypes.c_void_p),
    "vl_sift_detect": (None, ctypes.c_void_p),
    "vl_sift_calc_keypoint_orientations": (ctypes.c_int, *[ctypes.c_void_p] * 3),
    "vl_sift_calc_keypoint_descriptor": (None, ctypes.c_void_p, _FLOATS, ctypes.c_void_p, ctypes.c_double),
    "vl_sift_keypoint_init": (None, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_double] * 3),
    "vl_set_num_threads": (None, _SIZE),
}


class _Keypoint(ctypes.Structure):
    _fields_ = [(name, ctypes.c_double) for name in ("x", "y", "s", "norm")]


class _Geometry(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("numBinT", "numBinX", "numBinY", "binSizeX", "binSizeY")]


class _Filter(ctypes.Structure):
    """The fields of `VlDsiftFilter` that are needed here; its setters are inline functions of the header."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("imWidth", "imHeight", "stepX", "stepY")),
        *((name, ctypes.c_int) for name in ("boundMinX", "boundMinY", "boundMaxX", "boundMaxY")),
        ("geom", _Geometry),
        ("useFlatWindow", ctypes.c_int),
        ("windowSize", ctypes.c_double),
        ("numFrames", ctypes.c_int),
        ("descrSize", ctypes.c_int),
        ("frames", ctypes.POINTER(_Keypoint)),
        ("descrs", _FLOATS),
    ]


class _SiftKeypoint(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("o", "ix", "iy", "is_")),
        *((name, ctypes.c_float) for name in ("x", "y", "s", "sigma")),
    ]


class _SiftFilter(ctypes.Structure):
    """The fields of `VlSiftFilt` that are needed here."""

    _fields_ = [
        *((name, ctypes.c_double) for name in ("sigman", "sigma0", "sigmak", "dsigma0")),
        *((name, ctypes.c_int) for name in ("width", "height", "O", "S", "o_min", "s_min", "s_max", "o_cur")),
        *((name, _FLOATS) for name in ("temp", "octave", "dog")),
        *((name, ctypes.c_int) for name in ("octave_width", "octave_height")),
        ("gaussFilter", _FLOATS),
        ("gaussFilterSigma", ctypes.c_double),
        ("gaussFilterWidth", _SIZE),
        ("keys", ctypes.POINTER(_SiftKeypoint)),
        *((name, ctypes.c_int) for name in ("nkeys", "keys_res")),
        *((name, ctypes.c_double) for name in ("peak_thresh", "edge_thresh", "norm_thresh", "magnif", "windowSize")),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the loaded library, or ``None`` if it is not installed. VLFEAT_LIBRARY contains another path."""
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
    """A `VlHog` object, whose buffers are kept from image to image."""

    def __init__(self, *, variant: str = "uoctti", orientations: int = 9, bilinear: bool = False) -> None:
        loaded = library()
        if loaded is None:
            raise OSError("VLFeat is not installed: apt-get install libvlfeat1")
        self._vl = loaded
        self._hog = loaded.vl_hog_new(_VARIANTS[variant], orientations, 0)
        loaded.vl_hog_set_use_bilinear_orientation_assignments(self._hog, int(bilinear))

    def __del__(self) -> None:
        if hasattr(self, "_hog"):
            self._vl.vl_hog_delete(self._hog)

    def __call__(self, image: np.ndarray, cell_size: int = 8) -> np.ndarray:
        """Compute (D, Hc, Wc) float32 from (H, W) or (C, H, W), with H and W above 3, used as float32."""
        image = np.ascontiguousarray(image, dtype=np.float32)
        channels = image.shape[0] if image.ndim == 3 else 1
        height, width = image.shape[-2:]
        pixels = image.ctypes.data_as(_FLOATS)
        self._vl.vl_hog_put_image(self._hog, pixels, width, height, channels, cell_size)
        return self._extract()

    def polar(self, field: np.ndarray, cell_size: int, *, directed: bool) -> np.ndarray:
        """Compute (D, Hc, Wc) float32 from magnitudes and angles (2, H, W), used as float32."""
        modulus, angle = (np.ascontiguousarray(plane, dtype=np.float32) for plane in field)
        height, width = modulus.shape
        planes = modulus.ctypes.data_as(_FLOATS), angle.ctypes.data_as(_FLOATS)
        self._vl.vl_hog_put_polar_field(self._hog, *planes, int(directed), width, height, cell_size)
        return self._extract()

    def render(self, features: np.ndarray) -> np.ndarray:
        """Draw features (D, Hc, Wc) as glyphs, (21 Hc, 21 Wc) float32."""
        features = np.ascontiguousarray(features, dtype=np.float32)
        _, rows, columns = features.shape
        side = self._vl.vl_hog_get_glyph_size(self._hog)
        drawn = np.zeros((side * rows, side * columns), dtype=np.float32)
        arrays = drawn.ctypes.data_as(_FLOATS), features.ctypes.data_as(_FLOATS)
        self._vl.vl_hog_render(self._hog, *arrays, columns, rows)
        return drawn

    def _extract(self) -> np.ndarray:
        rows, columns = self._vl.vl_hog_get_height(self._hog), self._vl.vl_hog_get_width(self._hog)
        features = np.empty((self._vl.vl_hog_get_dimension(self._hog), rows, columns), dtype=np.float32)
        self._vl.vl_hog_extract(self._hog, features.ctypes.data_as(_FLOATS))
        return features


def hog(image: np.ndarray, cell_size: int = 8) -> np.ndarray:
    """Compute `Hog` for a single image."""
    return Hog()(image, cell_size)


class Lbp:
    """A `VlLbp` object with uniform patterns."""

    def __init__(self) -> None:
        loaded = library()
        if loaded is None:
            raise OSError("VLFeat is not installed: apt-get install libvlfeat1")
        self._vl = loaded
        self._lbp = loaded.vl_lbp_new(_UNIFORM, 0)

    def __del__(self) -> None:
        if hasattr(self, "_lbp"):
            self._vl.vl_lbp_delete(self._lbp)

    def __call__(self, image: np.ndarray, cell_size: int = 16) -> np.ndarray:
        """Compute (58, H // cell_size, W // cell_size) float32 from (H, W), used as float32."""
        image = np.ascontiguousarray(image, dtype=np.float32)
        height, width = image.shape
        features = np.empty((58, height // cell_size, width // cell_size), dtype=np.float32)
        memory = features.ctypes.data_as(_FLOATS)
        self._vl.vl_lbp_process(self._lbp, memory, image.ctypes.data_as(_FLOATS), width, height, cell_size)
        return features


def lbp(image: np.ndarray, cell_size: int = 16) -> np.ndarray:
    """Compute `Lbp` for a single image."""
    return Lbp()(image, cell_size)


class DenseSift:
    """A `VlDsiftFilter` for images of one size, whose buffers are kept from image to image."""

    def __init__(
        self,
        height: int,
        width: int,
        *,
        step: int | tuple[int, int] = 4,
        bin_size: int | tuple[int, int] = 4,
        window: str = "gaussian",
        window_size: float = 2.0,
        bounds: tuple[int, int, int, int] | None = None,
        geometry: tuple[int, int, int] = (4, 4, 8),
    ) -> None:
        """`step` and `bin_size` can be (y, x); `geometry` is the number of bins along y and x and of orientations."""
        loaded = library()
        if loaded is None:
            raise OSError("VLFeat is not installed: apt-get install libvlfeat1")
        self._vl = loaded
        self._address = loaded.vl_dsift_new(width, height)
        self.filter = ctypes.cast(self._address, ctypes.POINTER(_Filter)).contents
        step_y, step_x = step if isinstance(step, tuple) else (step, step)
        size_y, size_x = bin_size if isinstance(bin_size, tuple) else (bin_size, bin_size)
        down, across, orientations = geometry
        self.filter.geom = _Geometry(orientations, across, down, size_x, size_y)
        self.filter.stepX, self.filter.stepY = step_x, step_y
        self.filter.useFlatWindow = int(window == "flat")
        self.filter.windowSize = window_size
        top, left, bottom, right = bounds or (0, 0, height - 1, width - 1)
        self.filter.boundMinX, self.filter.boundMinY = left, top
        self.filter.boundMaxX, self.filter.boundMaxY = right, bottom
        loaded._vl_dsift_update_buffers(self._address)
        self.rows = (bottom - top - (down - 1) * size_y) // step_y + 1
        self.columns = (right - left - (across - 1) * size_x) // step_x + 1

    def __del__(self) -> None:
        if hasattr(self, "_address"):
            self._vl.vl_dsift_delete(self._address)

    def process(self, image: np.ndarray) -> None:
        """Process (H, W) float32, contiguous, and leave the results in VLFeat's memory; benchmarks time this."""
        self._vl.vl_dsift_process(self._address, image.ctypes.data_as(_FLOATS))

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute (D, h, w) float32, norms (h, w) and centers (h, w, 2), (y, x), from (H, W), used as float32."""
        descriptors, keypoints = self.rows_of(image)
        grid = (self.rows, self.columns)
        features = descriptors.reshape(*grid, -1).transpose(2, 0, 1).copy()
        frames = keypoints.reshape(*grid, 4)
        return features, frames[..., 3].copy(), frames[..., 1::-1].copy()

    def rows_of(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute descriptors (N, D), in VLFeat's memory until the next call, and keypoints (N, 4): x, y, s, norm."""
        self.process(np.ascontiguousarray(image, dtype=np.float32))
        count = self.filter.numFrames
        assert count == self.rows * self.columns
        descriptors = np.ctypeslib.as_array(self.filter.descrs, (count, self.filter.descrSize))
        memory = ctypes.string_at(self.filter.frames, count * ctypes.sizeof(_Keypoint))
        return descriptors, np.frombuffer(memory, np.float64).reshape(count, 4)


def dense_sift(image: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute features, norms and centers with `DenseSift` for a single image."""
    return DenseSift(*image.shape, **options)(image)


class Sift:
    """A `VlSiftFilt` object for images of one size, whose buffers are kept from image to image."""

    def __init__(
        self,
        height: int,
        width: int,
        *,
        octaves: int = -1,
        levels: int = 3,
        first_octave: int = 0,
        peak_threshold: float = 0.0,
        edge_threshold: float = 10.0,
        norm_threshold: float = 0.0,
        magnification: float = 3.0,
        window_size: float = 2.0,
    ) -> None:
        loaded = library()
        if loaded is None:
            raise OSError("VLFeat is not installed: apt-get install libvlfeat1")
        self._vl = loaded
        self._address = loaded.vl_sift_new(width, height, octaves, levels, first_octave)
        self.filter = ctypes.cast(self._address, ctypes.POINTER(_SiftFilter)).contents
        self.filter.peak_thresh, self.filter.edge_thresh = peak_threshold, edge_threshold
        self.filter.norm_thresh, self.filter.magnif, self.filter.windowSize = norm_threshold, magnification, window_size

    def __del__(self) -> None:
        if hasattr(self, "_address"):
            self._vl.vl_sift_delete(self._address)

    def __call__(
        self, image: np.ndarray, frames: np.ndarray | None = None, orient: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute frames (N, 4), x, y, sigma and angle, and descriptors (N, 128), octave by octave, from (H, W).

        The image is used as float32. Descriptors of `frames` are computed instead of those of detected frames, if
        given, with angles computed if `orient`. Descriptors that VLFeat does not write are all zeros.
        """
        image = np.ascontiguousarray(image, dtype=np.float32)
        found: list[tuple[float, ...]] = []
        described: list[np.ndarray] = []

        def describe(keypoint: _SiftKeypoint, angle: float) -> None:
            descriptor = np.zeros(128, np.float32)
            memory = descriptor.ctypes.data_as(_FLOATS)
            self._vl.vl_sift_calc_keypoint_descriptor(self._address, memory, ctypes.byref(keypoint), angle)
            found.append((keypoint.x, keypoint.y, keypoint.sigma, angle))
            described.append(descriptor)

        ended = self._vl.vl_sift_process_first_octave(self._address, image.ctypes.data_as(_FLOATS))
        while not ended:
            if frames is None:
                self._detect(describe)
            else:
                self._initialized(frames, orient, describe)
            ended = self._vl.vl_sift_process_next_octave(self._address)
        return np.array(found).reshape(-1, 4), np.array(described, np.float32).reshape(-1, 128)

    def _detect(self, describe: Callable[[_SiftKeypoint, float], None]) -> None:
        self._vl.vl_sift_detect(self._address)
        for index in range(self.filter.nkeys):
            for angle in self._angles(self.filter.keys[index]):
                describe(self.filter.keys[index], angle)

    def _initialized(self, frames: np.ndarray, orient: bool, describe: Callable[[_SiftKeypoint, float], None]) -> None:
        keypoint = _SiftKeypoint()
        for x, y, sigma, given in frames:
            self._vl.vl_sift_keypoint_init(self._address, ctypes.byref(keypoint), x, y, sigma)
            if keypoint.o == self.filter.o_cur:
                for angle in self._angles(keypoint) if orient else [given]:
                    describe(keypoint, angle)

    def _angles(self, keypoint: _SiftKeypoint) -> list[float]:
        angles = (ctypes.c_double * 4)()
        count = self._vl.vl_sift_calc_keypoint_orientations(self._address, angles, ctypes.byref(keypoint))
        return angles[:count]


def sift(
    image: np.ndarray, frames: np.ndarray | None = None, orient: bool = False, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Compute frames and descriptors with `Sift` for a single image."""
    return Sift(*image.shape, **options)(image, frames, orient)
