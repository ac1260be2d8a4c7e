"""Compute LBP features with the native kernels. Imports torch only for tensors."""

from __future__ import annotations

from typing import Any

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

CHANNELS = 58
VARIANTS = ("vlfeat-uniform",)
DTYPES = ("float32", "float16", "bfloat16")
LARGEST_CELL = 2**15  # the votes of a cell are counted in 64 bits


def lbp(
    images: Images,
    *,
    cell_size: int = 16,
    variant: str = "vlfeat-uniform",
    dtype: DType = "float32",
) -> Images:
    """Compute histograms of local binary patterns, identical to VLFeat's `vl_lbp`.

    Args:
        images: (H, W) or (..., C, H, W), where C is 1 or 3 (RGB, of which the luma 0.299 R + 0.587 G + 0.114 B is used)
            and leading dimensions can be 0; a tensor on the CPU or a CUDA device, or a NumPy array. uint8 (divided by
            255), float16, bfloat16, float32, or float64, which is converted to float32, where close values can become
            equal. Any strides; uint8 and float32 images are not copied.
        cell_size: Side of a cell in pixels, 1 to 32768. A size of 16 is fastest.
        variant: Definition of the features; only ``"vlfeat-uniform"``.
        dtype: Dtype of the features as a name or a dtype of torch or NumPy: float32, float16, or bfloat16 (tensors
            only), rounded from float32.

    Returns:
        (..., 58, H // cell_size, W // cell_size) of `dtype`, contiguous; a tensor on the images' device for tensors, a
        NumPy array for arrays. The code of a pixel has one bit for each of its eight neighbors, clockwise from the
        right, which is set if the neighbor is greater. Channel 7 i + j - 1 counts the codes whose ones are a run of
        length j, 1 to 7, that begins at bit i; channel 56 counts codes of all zeros or all ones, channel 57 all others.
        Pixels on the image border do not vote; others vote bilinearly for their four nearest cells. Features are the
        square roots of the fractions of a cell's votes: their squares sum to 1, or to 0 if there are no votes.

        Only the order of pixel values matters. For one channel, integers, the same values as floats, and these divided
        by 255 give equal results. For three channels, uint8 is equal to uint8 / 255 in float32; other scales round the
        luma differently, which can change the order of nearly equal values. Comparisons with NaN are false: the code of
        such a pixel is zero, and so is its bit in the codes of its neighbors.

        Votes are counted in integers, so that CPU and GPU, any number of threads and any instruction set give
        identical results. These are identical to VLFeat's for cell sizes that are powers of two up to 32; for others
        they differ by about 1e-6, because VLFeat sums in float32.

    Raises:
        TypeError: `images` is not an array or tensor or has another dtype, or `cell_size` is not an int.
        ValueError: The shape or device of `images` is invalid, the images are smaller than a cell, `cell_size`,
            `variant` or `dtype` is invalid, or `images` requires a gradient: LBP only compares pixels, and its
            derivative is zero almost everywhere.
        RuntimeError: `images` is on a CUDA device, but this build has no CUDA kernels.

    On the CPU the number of threads is `torch.get_num_threads()` for tensors, and ``OMP_NUM_THREADS`` or the number of
    CPUs available to the process for arrays. The environment variable ``PREIMAGE_ISA`` (avx512, avx2 or portable)
    selects an instruction set.
    """
    height, width = check_images(images)
    check_positive_int("cell_size", cell_size)
    if cell_size > LARGEST_CELL:
        raise ValueError(f"cell_size must be at most {LARGEST_CELL} pixels, got {cell_size}")
    if height < cell_size or width < cell_size:
        raise ValueError(f"images must have at least {cell_size} x {cell_size} pixels, got {height} x {width}")
    check_choice("variant", variant, VARIANTS)
    name = check_dtype(dtype, DTYPES, images)
    batch = as_batch(images)
    features: Any
    if is_tensor(batch):
        from preimage.ops.lbp_torch import lbp_torch

        features = lbp_torch(batch, cell_size, variant, name)
    else:
        features = np.empty((len(batch), CHANNELS, height // cell_size, width // cell_size), name)
        lbp_into(batch, features, cell_size=cell_size, threads=cpu_threads())
    return like_images(features, images)


def lbp_into(images: npt.NDArray[Any], features: npt.NDArray[Any], *, cell_size: int, threads: int) -> None:
    """Compute `lbp` of images (B, C, H, W) into `features`, (B, 58, h, w), float32 or float16, C-contiguous.

    Raises:
        ValueError: The shape, dtype or strides of `features` are wrong.
    """
    images = readable(images)  # keeps a copy alive until the kernel has read it
    _native.lbp(describe_array(images), describe_output(features), cell_size, threads)


def lbp_codes(images: Images, *, variant: str = "vlfeat-uniform") -> Images:
    """Compute the label of every pixel: the channel of `lbp` that it votes for.

    Args:
        images: As in `lbp`, at least 1 x 1 pixels.
        variant: Definition of the labels; only ``"vlfeat-uniform"``.

    Returns:
        (..., 1, H, W) uint8, contiguous, a tensor or an array like `images`: labels 0 to 57, and 255 for pixels on the
        image border, which do not vote.

    Raises:
        TypeError, ValueError, RuntimeError: As in `lbp`.
    """
    height, width = check_images(images)
    check_choice("variant", variant, VARIANTS)
    batch = as_batch(images)
    codes: Any
    if is_tensor(batch):
        from preimage.ops.lbp_torch import lbp_codes_torch

        codes = lbp_codes_torch(batch, variant)
    else:
        array = readable(batch)
        codes = np.empty((len(array), 1, height, width), np.uint8)
        _native.lbp_codes(describe_array(array), describe_array(codes), cpu_threads())
    return like_images(codes, images)
