"""LBP: check, describe the memory, call the native kernel. Imports torch for tensors only."""

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
    check_whole,
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
LARGEST_CELL = 2**15  # a cell's votes are counted in 64 bits


def lbp(
    images: Images,
    *,
    cell_size: int = 16,
    variant: str = "vlfeat-uniform",
    dtype: DType = "float32",
) -> Images:
    """Histograms of local binary patterns, bit for bit those of VLFeat's `vl_lbp`.

    Args:
        images: (H, W) or (..., C, H, W), y down; C is 1 or 3 (red, green, blue: their luma 0.299 R + 0.587 G + 0.114 B
            is taken); leading dimensions may be 0. uint8 (divided by 255), float16, bfloat16, float32 or
            float64 (turned into float32, where close values can become equal). Any strides; uint8 and float32 are
            read where they lie. A tensor in the CPU's memory or on a CUDA device, or a NumPy array.
        cell_size: side of a cell in pixels, 1 to 32768. 16 is the fast one.
        variant: the definition followed; only ``"vlfeat-uniform"``.
        dtype: of the features: float32, float16 or (tensors only) bfloat16, rounded from float32; a name or a dtype of
            torch or NumPy.

    Returns:
        (..., 58, H // cell_size, W // cell_size), contiguous, with the images' leading dimensions; a tensor on the
        images' device for a tensor, a NumPy array for an array. A pixel's code has one bit for each of its eight
        neighbors, clockwise from the right, set where the neighbor is greater. Channel 7 i + j - 1 counts the codes
        whose ones are a run of length j, 1 to 7, from bit i on; 56 those of all zeros or all ones; 57 the others.
        Pixels on the image's border do not vote. Each votes bilinearly for its four nearest cells. A cell's features
        are the square roots of its votes' shares: their squares sum up to 1, or to 0 where no pixel votes.

        Only the order of the values counts. With one channel, uint8, the same numbers as floats, and those divided
        by 255 give equal results; with three, uint8 gives what it gives divided by 255 in float32, while other
        scales round the luma differently, which can turn near-ties. A NaN is neither greater nor exceeded: its own
        code is all zeros, and its bit is clear in its neighbors' codes.

        Votes are counted in whole numbers: CPU and GPU, any number of threads and any instruction set give the same
        bits. They are VLFeat's bits where the cell size is a power of two up to 32. With others VLFeat's own float32
        sums are inexact: results then differ by up to 1e-6 in small images and some 1e-6 in large ones.

    Raises:
        TypeError: not an array or tensor, or of another dtype; `cell_size` not an int.
        ValueError: wrong rank, channel count or device; an empty image or one smaller than a cell; `cell_size` out of
            range; an unknown `variant` or `dtype`; a tensor that requires a gradient, outside `no_grad`: LBP only
            compares pixels, its derivative is zero almost everywhere.
        RuntimeError: a tensor on a CUDA device, in a build without CUDA.

    The CPU's number of threads is `torch.get_num_threads()`, for arrays ``OMP_NUM_THREADS`` or the CPUs that the
    process may use. The environment variable ``PREIMAGE_ISA`` (avx512, avx2, portable) forces an instruction set. On a
    GPU the work is queued on the current stream.
    """
    height, width = check_images(images)
    check_whole("cell_size", cell_size)
    if cell_size > LARGEST_CELL:
        raise ValueError(f"cell_size must be at most {LARGEST_CELL} pixels, got {cell_size}")
    if height < cell_size or width < cell_size:
        raise ValueError(f"an image must have at least {cell_size} x {cell_size} pixels, got {height} x {width}")
    check_choice("variant", variant, VARIANTS)
    name = check_dtype(dtype, DTYPES, images)
    batch = as_batch(images)
    features: Any
    if is_tensor(batch):
        from preimage.ops.lbp_torch import lbp_of_tensors

        features = lbp_of_tensors(batch, cell_size, variant, name)
    else:
        features = np.empty((len(batch), CHANNELS, height // cell_size, width // cell_size), name)
        lbp_into(batch, features, cell_size=cell_size, threads=cpu_threads())
    return like_images(features, images)


def lbp_into(images: npt.NDArray[Any], features: npt.NDArray[Any], *, cell_size: int, threads: int) -> None:
    """Write the features (B, 58, h, w), float32 or float16, C-contiguous, of images (B, C, H, W) in place.

    Raises:
        ValueError: `features` of another shape, dtype or layout.
    """
    images = readable(images)  # by name, so that a copy lives until the kernel has read it
    _native.lbp(describe_array(images), describe_output(features), cell_size, threads)


def lbp_codes(images: Images, *, variant: str = "vlfeat-uniform") -> Images:
    """Return every pixel's label: what `lbp` counts.

    Args:
        images: as `lbp`; at least 1 x 1 pixels.
        variant: only ``"vlfeat-uniform"``.

    Returns:
        uint8 (..., 1, H, W), contiguous, a tensor or an array as the images are: the channel of `lbp` that the pixel
        votes for, 0 to 57, and 255 for the pixels of the image's border, which do not vote.

    Raises:
        TypeError, ValueError, RuntimeError: as `lbp`.
    """
    height, width = check_images(images)
    check_choice("variant", variant, VARIANTS)
    batch = as_batch(images)
    codes: Any
    if is_tensor(batch):
        from preimage.ops.lbp_torch import codes_of_tensors

        codes = codes_of_tensors(batch, variant)
    else:
        array = readable(batch)
        codes = np.empty((len(array), 1, height, width), np.uint8)
        _native.lbp_codes(describe_array(array), describe_array(codes), cpu_threads())
    return like_images(codes, images)
