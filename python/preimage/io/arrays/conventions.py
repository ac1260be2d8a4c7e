"""Convert feature arrays between the conventions of other libraries and planar (C, h, w) arrays.

Arrays do not state their convention, so the caller names it:

``"preimage"``
    Planar (C, h, w), rows before columns, SIFT descriptors of unit norm. The convention of this package.
``"matlab"``
    Arrays returned by VLFeat's MATLAB toolbox. ``vl_hog`` and ``vl_lbp``: (h, w, C) single. ``vl_dsift``: descriptors
    128×N, min(512·d, 255), uint8 or single, and frames 2×N or 3×N, 1-based (x; y; norm), x in the outer loop.
    The toolbox compensates for MATLAB's column-major order (``vl_hog_new(…, VL_TRUE)``, ``vl_lbp_new(…, VL_TRUE)``,
    ``vl_dsift_transpose_descriptor``), so channels have the same meaning as here.
``"matlab-transposed"``
    The same functions called on the transposed image. This can be undone exactly for LBP (runs of bits reverse their
    direction) and dense SIFT (direction t becomes (2 - t) mod 8, and the two bin axes are exchanged), but not for HOG.
``"cyvlfeat"``
    Arrays returned by cyvlfeat. ``hog``: (h, w, C). ``dsift``: descriptors (N, 128), min(512·d, 255), uint8 or
    float32, and frames (N, 2 or 3), 0-based (y, x, norm), y in the outer loop. ``lbp``: cyvlfeat passes an
    untransposed image with the option for transposed ones, so the array (h, w, 58) contains the memory of a
    (58, h, w) array with the channels of a transposed image; for images that are not square it is meaningless.

VLFeat truncates 512·d to uint8; d is restored as v / 512, which is up to 1/512 too small, and 255 means d ≥ 0.498.

Sources: VLFeat 0.9.21 ``toolbox/misc/vl_hog.c``, ``toolbox/misc/vl_lbp.c``, ``toolbox/sift/vl_dsift.c``; cyvlfeat
``hog/cyhog.pyx``, ``misc/cylbp.pyx``, ``sift/cysift.pyx``.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.io.feature_file import shape_problem
from preimage.spec import Spec

CONVENTIONS = ("preimage", "matlab", "matlab-transposed", "cyvlfeat")

_CHANNELS = {"hog": 31, "lbp": 58, "dense-sift": 128}
_DESCRIPTOR_SCALE = 512.0

Array = NDArray[Any]
Shape = tuple[int, ...]


def check_convention(spec: Spec, convention: str) -> None:
    """Raise ``ValueError`` unless features of `spec` can be stored in a convention."""
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    if convention == "preimage":
        return
    if _CHANNELS.get(spec.representation) != spec.channels or spec.stride is None:
        raise ValueError(
            f"convention must be 'preimage' for {spec.representation!r} with {spec.channels} channels, got "
            f"{convention!r}, which exists for {', '.join(_CHANNELS)}"
        )
    if convention == "matlab-transposed" and spec.representation == "hog":
        raise ValueError(
            "convention 'matlab-transposed' is not possible for HOG: transposition maps direction a to 90° - a, which "
            "is not a bin, because bins are 20° apart. Compute the features of the image itself (vl_hog called on the "
            "image as MATLAB displays it gives convention 'matlab')"
        )


def has_frames(spec: Spec, convention: str) -> bool:
    """Return whether the features of an image are two arrays, descriptors and frames."""
    return convention != "preimage" and spec.representation == "dense-sift"


def covered(spec: Spec, height: int, width: int) -> tuple[int, int]:
    """Return the smallest image size (H, W) in pixels that features of (h, w) cells can come from."""
    assert spec.stride is not None
    bin_size = spec.parameters.get("bin_size")
    if spec.representation == "dense-sift" and isinstance(bin_size, int):
        return (height - 1) * spec.stride + 3 * bin_size + 1, (width - 1) * spec.stride + 3 * bin_size + 1
    block_size = spec.parameters.get("block_size")
    if spec.representation == "hog" and isinstance(block_size, int):
        height, width = height + block_size - 1, width + block_size - 1
    return height * spec.stride, width * spec.stride


def planar_shape(spec: Spec, convention: str, shape: Shape) -> Shape:
    """Return the planar shape (C, h, w) or (C,) of one image's array, for conventions without frames.

    Raises:
        ValueError: The shape does not match spec and convention.
    """
    if convention == "preimage":
        if problem := shape_problem(spec, shape):
            raise ValueError(problem + skimage_hog_hint(spec, shape))
        return shape
    if len(shape) != 3 or shape[2] != spec.channels or min(shape) < 1:
        wanted = f"features of {spec.representation} must have shape (h, w, {spec.channels}) in convention"
        raise ValueError(f"{wanted} {convention!r}, got {shape}" + skimage_hog_hint(spec, shape))
    height, width = shape[:2]
    if convention == "matlab-transposed":
        return spec.channels, width, height
    if convention == "cyvlfeat" and spec.representation == "lbp" and height != width:
        raise ValueError(
            f"LBP features of cyvlfeat must have a square grid, got {height}×{width} cells: cyvlfeat exchanges height "
            "and width when it reads the pixels. Recompute them with preimage.lbp"
        )
    return spec.channels, height, width


def stack_of(spec: Spec, convention: str, shape: Shape) -> tuple[int, int] | None:
    """Return axis and number of the images in a stack, or ``None`` if `shape` is not that of a stack.

    MATLAB stacks along the last axis, the other conventions along the first.
    """
    if len(shape) != (2 if spec.stride is None else 4) or min(shape) < 1:
        return None
    axis = len(shape) - 1 if convention.startswith("matlab") else 0
    try:
        planar_shape(spec, convention, shape[:axis] + shape[axis + 1 :])
    except ValueError:
        return None
    return axis, shape[axis]


def skimage_hog_hint(spec: Spec, shape: Shape) -> str:
    """Return a hint for error messages if `shape` looks like HOG features of scikit-image, otherwise nothing."""
    last = shape[-1] if shape else 0
    if spec.representation != "hog" or not (len(shape) in (1, 2, 5) or last in (9, 36, 81)):
        return ""
    if "block_size" in spec.parameters:
        return (
            ". This looks like HOG of scikit-image: the array that it returns with feature_vector=False is "
            "array.reshape(h, w, -1).transpose(2, 0, 1) here"
        )
    return (
        ". This looks like HOG of scikit-image, which is another function (no directed channels, another "
        "normalization; correlation about 0.6 at equal parameters) and cannot be inverted as VLFeat's HOG: give "
        "variant=dalal-triggs, or recompute the features with preimage.hog"
    )


def to_planar(spec: Spec, convention: str, array: Array) -> Array:
    """Convert one image's array to (C, h, w) or (C,), for conventions without frames."""
    if convention == "preimage":
        return array
    if convention == "cyvlfeat" and spec.representation == "lbp":
        height, width, channels = array.shape
        return np.ascontiguousarray(array).reshape(channels, height, width)[transposed_lbp()]
    if convention == "matlab-transposed":
        return array.transpose(2, 1, 0)[transposed_lbp()]
    return array.transpose(2, 0, 1)


def from_planar(spec: Spec, convention: str, features: Array) -> dict[str, Array]:
    """Convert features (C, h, w) or (C,) of one image to arrays in a convention.

    Returns:
        ``{"features": array}``, or ``{"descriptors": array, "frames": array}`` if `has_frames`. Descriptors keep their
        floating-point dtype (as with VLFeat's option ``FloatDescriptors``); frames are float64.

    Raises:
        ValueError: The convention cannot represent these features.
    """
    if convention == "preimage":
        return {"features": features}
    if has_frames(spec, convention):
        return _dense_sift_from_planar(spec, convention, features)
    if convention == "cyvlfeat" and spec.representation == "lbp":
        channels, height, width = features.shape
        if height != width:
            raise ValueError(f"LBP features of cyvlfeat must have a square grid, got {height}×{width} cells")
        return {"features": np.ascontiguousarray(features[transposed_lbp()]).reshape(height, width, channels)}
    if convention == "matlab-transposed":
        return {"features": features[transposed_lbp()].transpose(2, 1, 0)}
    return {"features": features.transpose(1, 2, 0)}


def dense_sift_grid(spec: Spec, convention: str, descriptors: Shape, frames: Array) -> tuple[int, int]:
    """Return the size (h, w) of the grid formed by the frames of one image.

    Raises:
        ValueError: Descriptors and frames do not match, or the frames are not the full grid of the spec's step and
            bin size, which begins at the image's corner, in the order of the convention.
    """
    rows = frames if convention.startswith("matlab") else frames.T
    by_rows = descriptors if convention.startswith("matlab") else descriptors[::-1]
    wanted = "128×N descriptors and 2×N frames" if convention.startswith("matlab") else "(N, 128) and (N, 2)"
    if rows.ndim != 2 or rows.shape[0] not in (2, 3) or by_rows != (128, rows.shape[1]) or rows.shape[1] < 1:
        raise ValueError(
            f"dense-sift in convention {convention!r} must have {wanted}, got shapes {descriptors} and {frames.shape}"
        )
    outer, inner = rows[0], rows[1]  # matlab: x, y of a column-major image; cyvlfeat: y, x
    first = 1.0 if convention.startswith("matlab") else 0.0
    bin_size, step = _geometry(spec)
    count = int(np.count_nonzero(outer == outer[0]))
    if count < 1 or outer.size % count:
        raise ValueError("the frames must form a full grid")
    centers = first + 1.5 * bin_size + step * np.arange(max(count, outer.size // count))
    if not (
        np.array_equal(outer, np.repeat(centers[: outer.size // count], count))
        and np.array_equal(inner, np.tile(centers[:count], outer.size // count))
    ):
        raise ValueError(
            f"the frames must be the grid of step {step:g} and bin_size {bin_size:g} over a whole image, which begins "
            f"at ({centers[0]:g}, {centers[0]:g}), got frames from ({outer[0]:g}, {inner[0]:g}) to ({outer[-1]:g}, "
            f"{inner[-1]:g}). Another step or bin size, or only a part of the image (Bounds)?"
        )
    if convention == "matlab":
        return count, outer.size // count
    return outer.size // count, count


def dense_sift_to_planar(convention: str, descriptors: Array, size: tuple[int, int]) -> NDArray[np.float32]:
    """Convert the descriptors of a checked grid of `size` (h, w) to (128, h, w) float32 of about unit norm."""
    height, width = size
    with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinite features are returned as they are
        values = descriptors.astype(np.float32) / np.float32(_DESCRIPTOR_SCALE)
    if convention == "matlab":
        return values.reshape(128, width, height).transpose(0, 2, 1)
    if convention == "matlab-transposed":
        return values.reshape(128, height, width)[transposed_dense_sift()]
    return values.reshape(height, width, 128).transpose(2, 0, 1)


def _dense_sift_from_planar(spec: Spec, convention: str, features: Array) -> dict[str, Array]:
    channels, height, width = features.shape
    bin_size, step = _geometry(spec)
    values = np.minimum(features * features.dtype.type(_DESCRIPTOR_SCALE), features.dtype.type(255))
    y, x = (1.5 * bin_size + step * np.arange(count) for count in (height, width))
    if convention == "matlab":
        frames = np.stack([np.repeat(x, height), np.tile(y, width)]) + 1
        return {"descriptors": values.transpose(0, 2, 1).reshape(channels, -1), "frames": frames}
    frames = np.stack([np.repeat(y, width), np.tile(x, height)])
    if convention == "matlab-transposed":
        return {"descriptors": values[transposed_dense_sift()].reshape(channels, -1), "frames": frames + 1}
    return {"descriptors": values.reshape(channels, -1).T, "frames": frames.T}


def _geometry(spec: Spec) -> tuple[float, float]:
    bin_size, step = spec.parameters.get("bin_size"), spec.parameters.get("step", spec.stride)
    if not isinstance(bin_size, int | float) or not isinstance(step, int | float):
        raise ValueError(f"a spec of dense-sift must contain step and bin_size, got {dict(spec.parameters)}")
    return bin_size, step


@functools.cache
def transposed_lbp() -> NDArray[np.intp]:
    """Return the permutation p (58,) with lbp(I)[c, y, x] = lbp(Iᵀ)[p[c], x, y]; it is its own inverse.

    Bit i (0 is east, then clockwise) becomes bit 2 - i, so a run of j ones from bit i begins at 2 - i - (j - 1).
    """
    runs = [(2 - i - (j - 1)) % 8 * 7 + (j - 1) for i in range(8) for j in range(1, 8)]
    return np.array([*runs, 56, 57])


@functools.cache
def transposed_dense_sift() -> NDArray[np.intp]:
    """Return the permutation p (128,) with dsift(I)[c, y, x] = dsift(Iᵀ)[p[c], x, y]; it is its own inverse."""
    return np.array([(2 - t) % 8 + 8 * y + 32 * x for y in range(4) for x in range(4) for t in range(8)])
