"""HOG: check, describe the memory, call the native kernel. Imports torch for tensors only."""

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
from preimage.ops._sizes import cell_count

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
    """Histograms of oriented gradients, equal to VLFeat's `vl_hog` (UoCTTI, 9 orientations) within 1e-6.

    Args:
        images: (H, W) or (..., C, H, W), y down; C is 1 or 3 (red, green, blue); leading dimensions may be 0.
            uint8 (divided by 255), float16, bfloat16, float32 or float64 with values in [0, 1] (not enforced;
            the normalization's epsilon makes the features depend on the range). Any strides; uint8 and float32
            are read where they lie. A tensor on the CPU or a CUDA device, or a NumPy array.
        cell_size: side of a cell in pixels, at least 1. 8 is the fast one.
        variant: the definition followed; only ``"vlfeat-uoctti"``.
        color: what becomes of three channels: ``"luma"`` takes 0.299 R + 0.587 G + 0.114 B; ``"strongest"``
            takes at every pixel the channel with the longest gradient, the first of equals, as VLFeat does.
        dtype: of the features: float32, float16 or (tensors only) bfloat16, rounded from float32; a name or a dtype of
            torch or NumPy.

    Returns:
        (..., 31, Hc, Wc) of `dtype`, contiguous, with the images' leading dimensions; a tensor on the images' device
        for a tensor, a NumPy array for an array. Hc = (H + cell_size // 2) // cell_size and Wc alike. Channels: 0-8
        directed at k · 20° (y down), 9-17 the opposite directions, 18-26 undirected, 27-30 texture of the cells' blocks
        upper left, upper right, lower left, lower right. Values in [0, 0.43].

        A pixel that is not finite spoils the cells that its four neighbors vote for (at most 3 × 3) and the cells
        next to those, which share their normalization; a NaN makes them NaN. All others keep their values to the bit.

    Raises:
        TypeError: not an array or tensor, or of another dtype; `cell_size` not an int.
        ValueError: wrong rank, channel count or device; an empty image or one too small for a cell; an unknown
            `variant`, `color` or `dtype`.
        RuntimeError: a CUDA tensor where the package was built without CUDA.

    Gradients flow back to the images, on either device. Where HOG has a kink, one side counts: a clipped value passes
    nothing on (a value at the level of clipping does), a pixel's vote keeps its direction and its channel, and a
    pixel without gradient passes nothing on. The gradient itself has none.

    On the CPU the number of threads is `torch.get_num_threads()`, for arrays ``OMP_NUM_THREADS`` or the CPUs that the
    process may use; it does not change the numbers. The environment variable ``PREIMAGE_ISA`` (avx512, avx2, portable)
    forces an instruction set.
    """
    height, width = check_images(images)
    check_whole("cell_size", cell_size)
    check_choice("variant", variant, VARIANTS)
    check_choice("color", color, COLORS)
    name = check_dtype(dtype, DTYPES, images)
    rows, columns = cell_count(height, cell_size), cell_count(width, cell_size)
    if rows < 1 or columns < 1:
        needed = cell_size - cell_size // 2
        raise ValueError(
            f"an image must have at least {needed} x {needed} pixels for a cell of {cell_size}, got {height} x {width}"
        )
    batch = as_batch(images)
    features: Any
    if is_tensor(batch):
        from preimage.ops.hog_torch import hog_of_tensors

        features = hog_of_tensors(batch, cell_size, variant, color, name)
    else:
        features = np.empty((len(batch), CHANNELS, rows, columns), name)
        hog_into(batch, features, cell_size=cell_size, color=color, threads=cpu_threads())
    return like_images(features, images)


def hog_into(images: npt.NDArray[Any], features: npt.NDArray[Any], *, cell_size: int, color: str, threads: int) -> None:
    """Write the features (B, 31, Hc, Wc), float32 or float16, C-contiguous, of images (B, C, H, W) in place.

    Raises:
        ValueError: `features` of another shape, dtype or layout.
    """
    images = readable(images)  # by name, so that a copy lives until the kernel has read it
    output = describe_output(features)
    _native.hog(describe_array(images), output, cell_size, color, threads)
