"""Where others put what: the named conventions of feature arrays, turned into planar (C, h, w) and back.

A convention is always named by the caller, because the arrays themselves do not tell:

``"preimage"``
    Planar (C, h, w), rows before columns, unit-norm SIFT. What this package writes.
``"matlab"``
    What VLFeat's MATLAB toolbox returns. ``vl_hog`` and ``vl_lbp``: (h, w, C) single. ``vl_dsift``: descriptors
    128×N, holding min(512·d, 255), uint8 or single, and frames 2×N or 3×N, (x; y; norm) 1-based, x in the outer loop.
    The toolbox undoes MATLAB's column-major order inside (``vl_hog_new(…, VL_TRUE)``, ``vl_lbp_new(…, VL_TRUE)``,
    ``vl_dsift_transpose_descriptor``), so channels mean the same as here.
``"matlab-transposed"``
    The same functions called on the transposed image. Turned back exactly for LBP (a run of bits changes its sense)
    and dense SIFT (direction t becomes (2 - t) mod 8, the two bin axes change places); impossible for HOG.
``"cyvlfeat"``
    What cyvlfeat returns. ``hog``: (h, w, C). ``dsift``: descriptors (N, 128), holding min(512·d, 255), uint8 or
    float32, and frames (N, 2 or 3), (y, x, norm) 0-based, y in the outer loop. ``lbp``: the library is told a
    transposed image and gets an untransposed one, so the array (h, w, 58) holds the memory of a (58, h, w) array
    with the channels of a transposed image; for images that are not square the numbers mean nothing.

VLFeat truncates 512·d to uint8; d comes back as v / 512, up to 1/512 below what it was, and 255 means 0.498 or more.

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
_SIFT_SCALE = 512.0

Array = NDArray[Any]
Shape = tuple[int, ...]


def check_convention(spec: Spec, convention: str) -> None:
    """``ValueError`` unless features of `spec` have that convention."""
    if convention not in CONVENTIONS:
        raise ValueError(f"convention is one of {', '.join(CONVENTIONS)}, got {convention!r}")
    if convention == "preimage":
        return
    if _CHANNELS.get(spec.representation) != spec.channels or spec.stride is None:
        raise ValueError(
            f"convention {convention!r} is known for {', '.join(_CHANNELS)}; features of {spec.representation!r} "
            f"with {spec.channels} channels have only 'preimage'"
        )
    if convention == "matlab-transposed" and spec.representation == "hog":
        raise ValueError(
            "HOG features of a transposed image cannot be turned back: transposition takes direction a to 90° - a, "
            "and 90° is no multiple of the 20° between bins, so edges were counted in other bins. Compute them on "
            "the image itself (vl_hog called in MATLAB on the image as it is displayed gives convention 'matlab')"
        )


def has_frames(spec: Spec, convention: str) -> bool:
    """Whether an image has two arrays, descriptors and frames, instead of one."""
    return convention != "preimage" and spec.representation == "dense-sift"


def covered(spec: Spec, height: int, width: int) -> tuple[int, int]:
    """Pixels (H, W) that features of (h, w) cells cover at least."""
    assert spec.stride is not None
    bin_size = spec.parameters.get("bin_size")
    if spec.representation == "dense-sift" and isinstance(bin_size, int):
        return (height - 1) * spec.stride + 3 * bin_size + 1, (width - 1) * spec.stride + 3 * bin_size + 1
    return height * spec.stride, width * spec.stride


def planar_shape(spec: Spec, convention: str, shape: Shape) -> Shape:
    """The shape (C, h, w) or (C,) of one image's array once planar, for conventions without frames.

    Raises:
        ValueError: the array is of another shape; for HOG says so if it looks like scikit-image's.
    """
    if convention == "preimage":
        if problem := shape_problem(spec, shape):
            raise ValueError(problem + skimage_hog_hint(spec, shape))
        return shape
    if len(shape) != 3 or shape[2] != spec.channels or min(shape) < 1:
        wanted = f"convention {convention!r} of {spec.representation} asks for (h, w, {spec.channels}), got {shape}"
        raise ValueError(wanted + skimage_hog_hint(spec, shape))
    height, width = shape[:2]
    if convention == "matlab-transposed":
        return spec.channels, width, height
    if convention == "cyvlfeat" and spec.representation == "lbp" and height != width:
        raise ValueError(
            f"cyvlfeat's LBP of an image that is not square means nothing (it reads the pixels with height and "
            f"width exchanged): {height}×{width} cells cannot be used, recompute them with preimage.lbp"
        )
    return spec.channels, height, width


def stack_of(spec: Spec, convention: str, shape: Shape) -> tuple[int, int] | None:
    """(axis, count) of the images in one array that holds several; ``None`` if it is no stack.

    MATLAB stacks along the last axis, everybody else along the first.
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
    """Why an array of that shape is no HOG of ours, if it looks like scikit-image's; else nothing."""
    last = shape[-1] if shape else 0
    if spec.representation != "hog" or not (len(shape) in (1, 2, 5) or last in (9, 36, 81)):
        return ""
    return (
        ". This looks like scikit-image's HOG, which is another function (no directed channels, another "
        "normalization; correlation about 0.6 at equal parameters), so no inverter for VLFeat's HOG fits it: "
        "recompute with preimage.hog"
    )


def to_planar(spec: Spec, convention: str, array: Array) -> Array:
    """One image's array in `convention` as (C, h, w) or (C,), for conventions without frames."""
    if convention == "preimage":
        return array
    if convention == "cyvlfeat" and spec.representation == "lbp":
        height, width, channels = array.shape
        return np.ascontiguousarray(array).reshape(channels, height, width)[transposed_lbp()]
    if convention == "matlab-transposed":
        return array.transpose(2, 1, 0)[transposed_lbp()]
    return array.transpose(2, 0, 1)


def from_planar(spec: Spec, convention: str, features: Array) -> dict[str, Array]:
    """The inverse: ``{"features": …}``, or ``{"descriptors": …, "frames": …}`` for dense SIFT of others' conventions.

    Descriptors keep their floating type (as VLFeat's option FloatDescriptors), frames are float64.

    Raises:
        ValueError: the convention cannot hold these features.
    """
    if convention == "preimage":
        return {"features": features}
    if has_frames(spec, convention):
        return _sift_from_planar(spec, convention, features)
    if convention == "cyvlfeat" and spec.representation == "lbp":
        channels, height, width = features.shape
        if height != width:
            raise ValueError(f"cyvlfeat's LBP exists for square images only, got {height}×{width} cells")
        return {"features": np.ascontiguousarray(features[transposed_lbp()]).reshape(height, width, channels)}
    if convention == "matlab-transposed":
        return {"features": features[transposed_lbp()].transpose(2, 1, 0)}
    return {"features": features.transpose(1, 2, 0)}


def sift_grid(spec: Spec, convention: str, descriptors: Shape, frames: Array) -> tuple[int, int]:
    """(h, w) of the grid that the frames of one image stand on.

    Raises:
        ValueError: the arrays do not go together, or the frames are not the full grid of the spec's step and bin
            size that begins at the image's corner, in the convention's order.
    """
    rows = frames if convention.startswith("matlab") else frames.T
    by_rows = descriptors if convention.startswith("matlab") else descriptors[::-1]
    wanted = "128×N descriptors and 2×N frames" if convention.startswith("matlab") else "(N, 128) and (N, 2)"
    if rows.ndim != 2 or rows.shape[0] not in (2, 3) or by_rows != (128, rows.shape[1]) or rows.shape[1] < 1:
        raise ValueError(
            f"convention {convention!r} of dense-sift asks for {wanted}, got shapes {descriptors} and {frames.shape}"
        )
    outer, inner = rows[0], rows[1]  # matlab: x, y of a column-major image; cyvlfeat: y, x
    first = 1.0 if convention.startswith("matlab") else 0.0
    bin_size, step = _geometry(spec)
    count = int(np.count_nonzero(outer == outer[0]))
    if count < 1 or outer.size % count:
        raise ValueError("the frames do not form a full grid")
    places = first + 1.5 * bin_size + step * np.arange(max(count, outer.size // count))
    if not (
        np.array_equal(outer, np.repeat(places[: outer.size // count], count))
        and np.array_equal(inner, np.tile(places[:count], outer.size // count))
    ):
        raise ValueError(
            f"the frames are not the grid of step {step:g} and bin_size {bin_size:g} over a whole image: "
            f"that begins at ({places[0]:g}, {places[0]:g}), these at ({outer[0]:g}, {inner[0]:g}) and go on to "
            f"({outer[-1]:g}, {inner[-1]:g}). Another step or bin size, or only a part of the image (Bounds)?"
        )
    if convention == "matlab":
        return count, outer.size // count
    return outer.size // count, count


def sift_to_planar(convention: str, descriptors: Array, size: tuple[int, int]) -> NDArray[np.float32]:
    """Descriptors of a checked grid (h, w) as (128, h, w) float32 of about unit norm."""
    height, width = size
    values = descriptors.astype(np.float32) / np.float32(_SIFT_SCALE)
    if convention == "matlab":
        return values.reshape(128, width, height).transpose(0, 2, 1)
    if convention == "matlab-transposed":
        return values.reshape(128, height, width)[transposed_sift()]
    return values.reshape(height, width, 128).transpose(2, 0, 1)


def _sift_from_planar(spec: Spec, convention: str, features: Array) -> dict[str, Array]:
    channels, height, width = features.shape
    bin_size, step = _geometry(spec)
    values = np.minimum(features * features.dtype.type(_SIFT_SCALE), features.dtype.type(255))
    y, x = (1.5 * bin_size + step * np.arange(count) for count in (height, width))
    if convention == "matlab":
        frames = np.stack([np.repeat(x, height), np.tile(y, width)]) + 1
        return {"descriptors": values.transpose(0, 2, 1).reshape(channels, -1), "frames": frames}
    frames = np.stack([np.repeat(y, width), np.tile(x, height)])
    if convention == "matlab-transposed":
        return {"descriptors": values[transposed_sift()].reshape(channels, -1), "frames": frames + 1}
    return {"descriptors": values.reshape(channels, -1).T, "frames": frames.T}


def _geometry(spec: Spec) -> tuple[float, float]:
    bin_size, step = spec.parameters.get("bin_size"), spec.parameters.get("step", spec.stride)
    if not isinstance(bin_size, int | float) or not isinstance(step, int | float):
        raise ValueError(f"a spec of dense-sift tells step and bin_size, got {dict(spec.parameters)}")
    return bin_size, step


@functools.cache
def transposed_lbp() -> NDArray[np.intp]:
    """(58,) channels c' with lbp(I)[c] = lbp(Iᵀ)[c'] at the exchanged place; its own inverse.

    Bit i (0 east, then clockwise) becomes bit 2 - i, so a run of j ones from bit i begins at 2 - i - (j - 1).
    """
    runs = [(2 - i - (j - 1)) % 8 * 7 + (j - 1) for i in range(8) for j in range(1, 8)]
    return np.array([*runs, 56, 57])


@functools.cache
def transposed_sift() -> NDArray[np.intp]:
    """(128,) channels c' with dsift(I)[c] = dsift(Iᵀ)[c'] at the exchanged place; its own inverse."""
    return np.array([(2 - t) % 8 + 8 * y + 32 * x for y in range(4) for x in range(4) for t in range(8)])
