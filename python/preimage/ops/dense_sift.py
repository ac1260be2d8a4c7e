"""Dense SIFT: check, describe the memory, call the native kernel. Imports torch for tensors only."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from preimage.ops import _native
from preimage.ops._images import (
    DType,
    Images,
    as_batch,
    check_choice,
    check_dtype,
    check_images,
    check_whole,
    cpu_threads,
    describe_array,
    describe_output,
    is_tensor,
    like_images,
    readable,
)
from preimage.ops._sizes import Bounds, grid_size

CHANNELS = 128
WINDOWS = ("gaussian", "flat")
DTYPES = ("float32", "float16", "bfloat16", "uint8")


@overload
def dense_sift(
    images: Images,
    *,
    step: int = ...,
    bin_size: int = ...,
    window: str = ...,
    window_size: float = ...,
    bounds: Bounds | None = ...,
    norms: Literal[False] = ...,
    dtype: DType = ...,
) -> Images: ...


@overload
def dense_sift(
    images: Images,
    *,
    step: int = ...,
    bin_size: int = ...,
    window: str = ...,
    window_size: float = ...,
    bounds: Bounds | None = ...,
    norms: Literal[True],
    dtype: DType = ...,
) -> tuple[Images, Images]: ...


def dense_sift(
    images: Images,
    *,
    step: int = 4,
    bin_size: int = 4,
    window: str = "gaussian",
    window_size: float = 2.0,
    bounds: Bounds | None = None,
    norms: bool = False,
    dtype: DType = "float32",
) -> Images | tuple[Images, Images]:
    """SIFT descriptors on a regular grid, equal to VLFeat's `vl_dsift` (4 × 4 bins of 8 orientations).

    With the Gaussian window every value is within 5e-6 of VLFeat's where the norm is at least 1e-4. With the flat one
    it is within 1e-3 where the norm is at least 1e-3, because VLFeat's own running sums are no more exact than that;
    from the definition in double precision it is 5e-6 off at most.

    Args:
        images: (H, W) or (..., C, H, W), y down; C is 1 or 3 (red, green, blue; their luma
            0.299 R + 0.587 G + 0.114 B is taken); leading dimensions may be 0. uint8 (divided by 255), float16,
            bfloat16, float32 or float64 with values in [0, 1] (not enforced). Any strides; uint8 and float32 are read
            where they lie.
            A tensor on the CPU or a CUDA device, or a NumPy array. They are not smoothed; `preimage.phow` does that.
        step: pixels between descriptors along both axes, at least 1.
        bin_size: pixels between the centers of a descriptor's spatial bins along both axes, at least 1.
        window: ``"gaussian"`` weighs every pixel by its distance from the descriptor's center, as SIFT does;
            ``"flat"`` every spatial bin by the Gaussian's mean over it (VLFeat's "fast" one).
        window_size: the Gaussian's standard deviation in bins, above 0.
        bounds: (top, left, bottom, right), the pixels that bin centers may lie on, inclusive, as VLFeat's bounds but
            y before x and from 0; ``None`` for the whole image.
        norms: give the norms as well.
        dtype: of the descriptors: float32, float16, (tensors only) bfloat16, or uint8 for min(⌊512 · d⌋, 255), as
            VLFeat's toolbox stores them; a name or a dtype of torch or NumPy.

    Returns:
        (..., 128, h, w), contiguous, with the images' leading dimensions; a tensor on the images' device for a tensor,
        a NumPy array for an array. h = (bottom - top - 3 · bin_size) // step + 1 and w alike. Channel = orientation +
        8 · spatial column + 32 · spatial row; orientation k is along k · 45°, 0 along +x, y down. Values in [0, 1],
        every descriptor of length 1. `preimage.dense_sift_frames` tells their centers.

        With `norms` also float32 (..., 1, h, w): the sum of a descriptor's 128 values before they are normalized,
        over (3 · bin_size + 1)²; VLFeat's measure of contrast.

        A near-flat patch has a descriptor of zeros: one whose values before normalizing, squared, add up to at most
        1e-8. (There VLFeat divides by 1.2e-7 and returns noise.)

        A pixel that is not finite spoils the descriptors that it, or one of its four neighbors, votes for; a NaN
        makes them NaN (255 in uint8). All others keep their values to the bit.

    Raises:
        TypeError: not an array or tensor, or of another dtype; `step`, `bin_size` or a bound not an int.
        ValueError: wrong rank, channel count or device; an unknown `window` or `dtype`; bounds outside the image, or
            too narrow for one descriptor (3 · bin_size + 1 pixels); on a CUDA device a `bin_size` above 143, which
            its shared memory has no room for.
        RuntimeError: a CUDA tensor where the package was built without CUDA.

    Gradients of descriptors (except as uint8) and norms flow back to the images, on either device. Where the
    definition has a kink, one side counts: a value clipped at 0.2 passes its gradient on where it is at most 0.2; a
    pixel's length is split linearly within each eighth of a turn; pixels whose squared gradient is at most 1e-8, and
    the descriptors of near-flat patches, pass nothing on. The gradient itself has none.

    On the CPU the number of threads is `torch.get_num_threads()`, for arrays ``OMP_NUM_THREADS`` or the CPUs that the
    process may use; it does not change the numbers. The environment variable ``PREIMAGE_ISA`` (avx512, avx2, portable)
    forces an instruction set.
    """
    height, width = check_images(images)
    box = check_grid(height, width, step, bin_size, bounds)
    check_choice("window", window, WINDOWS)
    name = check_dtype(dtype, DTYPES, images)
    if not isinstance(window_size, float | int):
        raise TypeError(f"window_size must be a number, got {window_size!r}")
    if not 0 < window_size < math.inf:
        raise ValueError(f"window_size must be above 0 bins and finite, got {window_size!r}")
    batch = as_batch(images)
    features: Any
    sums: Any
    if is_tensor(batch):
        from preimage.ops.dense_sift_torch import dense_sift_of_tensors

        features, sums = dense_sift_of_tensors(batch, step, bin_size, window, float(window_size), bounds, name)
    else:
        rows, columns = grid_size(box, step, bin_size)
        features = np.empty((len(batch), CHANNELS, rows, columns), name)
        sums = dense_sift_into(
            batch,
            features,
            step=step,
            bin_size=bin_size,
            window=window,
            window_size=window_size,
            bounds=box,
            threads=cpu_threads(),
        )
    if not norms:
        return like_images(features, images)
    return like_images(features, images), like_images(sums, images)


def dense_sift_into(
    images: npt.NDArray[Any],
    features: npt.NDArray[Any],
    *,
    step: int,
    bin_size: int,
    window: str,
    window_size: float,
    bounds: Bounds | None = None,
    threads: int,
) -> npt.NDArray[np.float32]:
    """Write the features (B, 128, h, w), C-contiguous, of images (B, C, H, W) in place.

    Returns:
        The norms (B, 1, h, w).

    Raises:
        ValueError: `features` of another shape, dtype or layout.
    """
    images = readable(images)  # by name, so that a copy lives until the kernel has read it
    box = (0, 0, images.shape[-2] - 1, images.shape[-1] - 1) if bounds is None else bounds
    norms = np.empty((len(images), 1, *grid_size(box, step, bin_size)), np.float32)
    _native.dense_sift(
        describe_array(images),
        describe_output(features),
        describe_array(norms),
        step,
        bin_size,
        window,
        window_size,
        box,
        threads,
    )
    return norms


def dense_sift_frames(
    height: int, width: int, *, step: int = 4, bin_size: int = 4, bounds: Bounds | None = None
) -> npt.NDArray[np.float32]:
    """Return where `dense_sift` puts its descriptors on an image of this size.

    Args:
        height, width: of the image, in pixels.
        step, bin_size, bounds: as for `dense_sift`.

    Returns:
        float32 (h, w, 2): the centers, y before x, in pixels from the center of the upper left one. A descriptor's
        first bin is centered 1.5 · bin_size before it, its last as much after it.

    Raises:
        TypeError, ValueError: as `dense_sift`.
    """
    check_whole("height", height)
    check_whole("width", width)
    box = check_grid(height, width, step, bin_size, bounds)
    rows, columns = grid_size(box, step, bin_size)
    center = 1.5 * bin_size
    y = np.arange(rows, dtype=np.float32) * np.float32(step) + np.float32(box[0] + center)
    x = np.arange(columns, dtype=np.float32) * np.float32(step) + np.float32(box[1] + center)
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)


def check_grid(height: int, width: int, step: int, bin_size: int, bounds: Bounds | None) -> Bounds:
    """The bounds in full; ``TypeError`` or ``ValueError`` unless they hold a descriptor and lie inside the image."""
    check_whole("step", step)
    check_whole("bin_size", bin_size)
    if bounds is None:
        top, left, bottom, right = 0, 0, height - 1, width - 1
    else:
        if not isinstance(bounds, tuple | list) or len(bounds) != 4 or any(type(bound) is not int for bound in bounds):
            raise TypeError(f"bounds must be four ints (top, left, bottom, right), got {bounds!r}")
        top, left, bottom, right = bounds
        if not (0 <= top <= bottom < height and 0 <= left <= right < width):
            raise ValueError(
                f"bounds must be (top, left, bottom, right), inclusive, inside an image of {height} x {width} pixels, "
                f"got {tuple(bounds)}"
            )
    if bottom - top < 3 * bin_size or right - left < 3 * bin_size:
        least = 3 * bin_size + 1
        where = "an image" if bounds is None else "the bounds"
        raise ValueError(
            f"{where} must have at least {least} x {least} pixels for a bin_size of {bin_size}, "
            f"got {bottom - top + 1} x {right - left + 1}"
        )
    return top, left, bottom, right
