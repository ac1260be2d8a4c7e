"""Compute dense SIFT descriptors with the native kernels. Imports torch only for tensors."""

from __future__ import annotations

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
    check_positive_int,
    cpu_threads,
    describe_array,
    describe_output,
    is_tensor,
    like_images,
    readable,
)
from preimage.ops._output_sizes import Bounds, grid_size

CHANNELS = 128
WINDOWS = ("gaussian", "flat")
DTYPES = ("float32", "float16", "bfloat16", "uint8")
_MAX_STEP = 2**30  # exclusive limit of the kernel


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
    """Compute SIFT descriptors on a regular grid, equal to VLFeat's `vl_dsift` (4 × 4 bins of 8 orientations).

    With the Gaussian window all values are within 5e-6 of VLFeat's for norms of at least 1e-4. With the flat window
    they are within 1e-3 for norms of at least 1e-3, because VLFeat's running sums are less exact; they are within 5e-6
    of the definition in double precision.

    Descriptors (except uint8) and norms are differentiable once with respect to the images, on either device. At kinks
    one-sided derivatives are used: values above 0.2, which are clipped, have derivative 0; the magnitude of a gradient
    is split between orientations linearly within each 45°; pixels whose squared gradient is at most 1e-8 and
    descriptors of nearly flat patches have derivative 0.

    Args:
        images: (H, W) or (..., C, H, W), where C is 1 or 3 (RGB, of which the luma 0.299 R + 0.587 G + 0.114 B is used)
            and leading dimensions can be 0; a tensor on the CPU or a CUDA device, or a NumPy array. uint8 (divided by
            255), or float16, bfloat16, float32 or float64 with values in [0, 1], which is not enforced. Any strides;
            uint8 and float32 images are not copied. Images are not smoothed, see `preimage.phow`.
        step: Distance between descriptors along both axes in pixels, at least 1.
        bin_size: Distance between the centers of a descriptor's spatial bins along both axes in pixels, at least 1.
        window: ``"gaussian"`` weights every pixel by its distance from the descriptor's center, as SIFT does;
            ``"flat"`` weights every spatial bin by the mean of the Gaussian over it (VLFeat's option "fast").
        window_size: Standard deviation of the Gaussian in bins, above 0.
        bounds: (top, left, bottom, right) of the pixels allowed for bin centers, inclusive and 0-based; ``None`` for
            the whole image.
        norms: Also return the norms.
        dtype: Dtype of the descriptors as a name or a dtype of torch or NumPy: float32, float16, bfloat16 (tensors
            only), or uint8 for min(⌊512 · d⌋, 255), as in VLFeat's toolbox.

    Returns:
        (..., 128, h, w) of `dtype`, contiguous, where h = (bottom - top - 3 · bin_size) // step + 1 and w likewise; a
        tensor on the images' device for tensors, a NumPy array for arrays. The channel is orientation + 8 · spatial
        column + 32 · spatial row, where orientation k is the direction k · 45° from +x, and y points down. Values are
        in [0, 1], and all descriptors have norm 1. Their centers are given by `preimage.dense_sift_frames`.

        With ``norms=True`` also (..., 1, h, w) float32: the sum of a descriptor's 128 values before normalization,
        divided by (3 · bin_size + 1)², which VLFeat uses as a measure of contrast.

        The descriptor of a nearly flat patch is zero: the sum of its squared values before normalization is at most
        1e-8. (VLFeat divides by 1.2e-7 and returns noise.)

        A pixel that is not finite affects the descriptors that it or one of its four neighbors votes for; a NaN makes
        them NaN (255 in uint8). All other descriptors are unaffected.

    Raises:
        TypeError: `images` is not an array or tensor or has another dtype, or `step`, `bin_size` or a bound is not an
            int.
        ValueError: The shape or device of `images` is invalid, `window` or `dtype` is invalid, `bounds` are outside the
            image or smaller than a descriptor (3 · bin_size + 1 pixels), or `bin_size` is above 143 on a CUDA device,
            which exceeds its shared memory.
        RuntimeError: `images` is on a CUDA device, but this build has no CUDA kernels.

    On the CPU the number of threads is `torch.get_num_threads()` for tensors, and ``OMP_NUM_THREADS`` or the number of
    CPUs available to the process for arrays; it does not affect the result. The environment variable ``PREIMAGE_ISA``
    (avx512, avx2 or portable) selects an instruction set.
    """
    height, width = check_images(images)
    box = check_grid(height, width, step, bin_size, bounds)
    check_choice("window", window, WINDOWS)
    name = check_dtype(dtype, DTYPES, images)
    if not isinstance(window_size, (float, int)):  # not `float | int`, here and below: torch 2.6 cannot compile it
        raise TypeError(f"window_size must be a number, got {window_size!r}")
    if not 1e-20 <= window_size <= 1e20:
        raise ValueError(f"window_size must be from 1e-20 to 1e20 bins, got {window_size!r}")
    batch = as_batch(images)
    features: Any
    sums: Any
    if is_tensor(batch):
        from preimage.ops.dense_sift_torch import dense_sift_torch

        features, sums = dense_sift_torch(batch, step, bin_size, window, float(window_size), bounds, name)
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
    """Compute `dense_sift` of images (B, C, H, W) into `features`, (B, 128, h, w), C-contiguous.

    Returns:
        Norms (B, 1, h, w).

    Raises:
        ValueError: The shape, dtype or strides of `features` are wrong.
    """
    images = readable(images)  # keeps a copy alive until the kernel has read it
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
    """Return the centers of the descriptors that `dense_sift` computes.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        step: Distance between descriptors in pixels.
        bin_size: Distance between the centers of spatial bins in pixels.
        bounds: (top, left, bottom, right) as in `dense_sift`.

    Returns:
        (h, w, 2) float32, centers (y, x) in pixels, where (0, 0) is the center of the upper left pixel. The centers of
        a descriptor's first and last bin are 1.5 · bin_size before and after it.

    Raises:
        TypeError, ValueError: As in `dense_sift`.
    """
    check_positive_int("height", height)
    check_positive_int("width", width)
    box = check_grid(height, width, step, bin_size, bounds)
    rows, columns = grid_size(box, step, bin_size)
    center = 1.5 * bin_size
    y = np.arange(rows, dtype=np.float32) * np.float32(step) + np.float32(box[0] + center)
    x = np.arange(columns, dtype=np.float32) * np.float32(step) + np.float32(box[1] + center)
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)


def check_grid(height: int, width: int, step: int, bin_size: int, bounds: Bounds | None) -> Bounds:
    """Check the parameters of a grid and return its bounds, which are those of the image for ``None``.

    Raises:
        TypeError: `step`, `bin_size` or a bound is not an int.
        ValueError: `step` or `bin_size` is below 1, `step` is 2^30 or more, or the bounds are outside the image or
            smaller than a descriptor.
    """
    check_positive_int("step", step)
    check_positive_int("bin_size", bin_size)
    if step >= _MAX_STEP:
        raise ValueError(f"step must be below 2^30 pixels, got {step}")
    if bounds is None:
        top, left, bottom, right = 0, 0, height - 1, width - 1
    else:
        if not isinstance(bounds, (tuple, list)) or len(bounds) != 4 or any(type(bound) is not int for bound in bounds):
            raise TypeError(f"bounds must be four ints (top, left, bottom, right), got {bounds!r}")
        top, left, bottom, right = bounds
        if not (0 <= top <= bottom < height and 0 <= left <= right < width):
            raise ValueError(
                f"bounds must be (top, left, bottom, right), inclusive, inside the image of {height} x {width} pixels, "
                f"got {tuple(bounds)}"
            )
    if bottom - top < 3 * bin_size or right - left < 3 * bin_size:
        least = 3 * bin_size + 1
        where = "images" if bounds is None else "bounds"
        raise ValueError(
            f"{where} must have at least {least} x {least} pixels for a bin_size of {bin_size}, "
            f"got {bottom - top + 1} x {right - left + 1}"
        )
    return top, left, bottom, right
