"""Compute HOG features with the native kernels. Imports torch only for tensors."""

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
from preimage.ops._output_sizes import cell_count

CHANNELS = 31
VARIANTS = ("vlfeat-uoctti",)
COLORS = ("luma", "strongest")
DTYPES = ("float32", "float16", "bfloat16")


def hog(
    images: Images,
    *,
    cell_size: int = 8,
    variant: str = "vlfeat-uoctti",
    color: str = "luma",
    dtype: DType = "float32",
) -> Images:
    """Compute histograms of oriented gradients, equal to VLFeat's `vl_hog` (UoCTTI, 9 orientations) within 1e-6.

    HOG features are differentiable once with respect to the images, on either device. At kinks one-sided derivatives
    are used: clipped values have derivative 0 (values equal to the clipping level have not), the direction bin and the
    channel of a pixel are constant, and a pixel without gradient has derivative 0.

    Args:
        images: (H, W) or (..., C, H, W), where C is 1 or 3 (RGB) and leading dimensions can be 0; a tensor on the CPU
            or a CUDA device, or a NumPy array. uint8 (divided by 255), or float16, bfloat16, float32 or float64 with
            values in [0, 1]; the range is not enforced, but features depend on it through an epsilon. Any strides;
            uint8 and float32 images are not copied.
        cell_size: Side of a cell in pixels, at least 1. A size of 8 is fastest.
        variant: Definition of the features; only ``"vlfeat-uoctti"``.
        color: How images of three channels are reduced to one: ``"luma"`` is 0.299 R + 0.587 G + 0.114 B;
            ``"strongest"`` uses at every pixel the channel with the largest gradient, as VLFeat does.
        dtype: Dtype of the features as a name or a dtype of torch or NumPy: float32, float16, or bfloat16 (tensors
            only), rounded from float32.

    Returns:
        (..., 31, Hc, Wc) of `dtype`, contiguous, where Hc = (H + cell_size // 2) // cell_size and Wc likewise; a
        tensor on the images' device for tensors, a NumPy array for arrays. Channels 0 to 8 are the directed gradients
        at k · 20° (y points down), 9 to 17 the opposite directions, 18 to 26 the undirected gradients, and 27 to 30 the
        texture in the blocks of cells to the upper left, upper right, lower left and lower right. Values are in
        [0, 0.43].

        A pixel that is not finite affects the cells that its four neighbors vote for (at most 3 × 3) and, through the
        normalization, the cells next to them; a NaN makes them NaN. All other cells are unaffected.

    Raises:
        TypeError: `images` is not an array or tensor or has another dtype, or `cell_size` is not an int.
        ValueError: The shape or device of `images` is invalid, the images are smaller than a cell, or `cell_size`,
            `variant`, `color` or `dtype` is invalid.
        RuntimeError: `images` is on a CUDA device, but this build has no CUDA kernels.

    On the CPU the number of threads is `torch.get_num_threads()` for tensors, and ``OMP_NUM_THREADS`` or the number of
    CPUs available to the process for arrays; it does not affect the result. The environment variable ``PREIMAGE_ISA``
    (avx512, avx2 or portable) selects an instruction set.
    """
    height, width = check_images(images)
    check_positive_int("cell_size", cell_size)
    check_choice("variant", variant, VARIANTS)
    check_choice("color", color, COLORS)
    name = check_dtype(dtype, DTYPES, images)
    rows, columns = cell_count(height, cell_size), cell_count(width, cell_size)
    if rows < 1 or columns < 1:
        needed = cell_size - cell_size // 2
        raise ValueError(
            f"images must have at least {needed} x {needed} pixels for a cell_size of {cell_size}, "
            f"got {height} x {width}"
        )
    batch = as_batch(images)
    features: Any
    if is_tensor(batch):
        from preimage.ops.hog_torch import hog_torch

        features = hog_torch(batch, cell_size, variant, color, name)
    else:
        features = np.empty((len(batch), CHANNELS, rows, columns), name)
        hog_into(batch, features, cell_size=cell_size, color=color, threads=cpu_threads())
    return like_images(features, images)


def hog_into(images: npt.NDArray[Any], features: npt.NDArray[Any], *, cell_size: int, color: str, threads: int) -> None:
    """Compute `hog` of images (B, C, H, W) into `features`, (B, 31, Hc, Wc), float32 or float16, C-contiguous.

    Raises:
        ValueError: The shape, dtype or strides of `features` are wrong.
    """
    images = readable(images)  # keeps a copy alive until the kernel has read it
    output = describe_output(features)
    _native.hog(describe_array(images), output, cell_size, color, threads)
