"""Compute HOG features with the native kernels. Imports torch only for tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.ops import _native
from preimage.ops._block_options import BLOCK_NORM, BLOCK_SIZE, ORIENTATIONS, BlockOptions, check_unused
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
from preimage.ops.hog_dalal_triggs import dalal_triggs

CHANNELS = 31  # of vlfeat-uoctti
DIRECTIONS = 18  # of its histograms
VARIANTS = ("vlfeat-uoctti", "dalal-triggs")
COLORS = ("luma", "strongest")
DTYPES = ("float32", "float16", "bfloat16")


def hog(
    images: Images,
    *,
    cell_size: int | tuple[int, int] = 8,
    variant: str = "vlfeat-uoctti",
    color: str = "luma",
    orientations: int = ORIENTATIONS,
    block_size: int | tuple[int, int] = BLOCK_SIZE,
    block_norm: str = BLOCK_NORM,
    transform_sqrt: bool = False,
    dtype: DType = "float32",
) -> Images:
    """Compute histograms of oriented gradients, equal within 1e-6 to those of VLFeat or scikit-image.

    HOG features are differentiable once with respect to the images, on either device. At kinks one-sided derivatives
    are used: clipped values have derivative 0 (values equal to the clipping level do not), the direction bin and the
    channel of a pixel are constant, and a pixel without gradient has derivative 0.

    Args:
        images: (H, W) or (..., C, H, W), where C is 1 or 3 (RGB) and leading dimensions can be 0; a tensor on the CPU
            or a CUDA device, or a NumPy array. uint8, or float16, bfloat16, float32 or float64. ``"vlfeat-uoctti"``
            divides uint8 by 255 and expects other values in [0, 1]; ``"dalal-triggs"`` takes values as they are. The
            range is not enforced, but features depend on it through an epsilon. Any strides; uint8 and float32 images
            are not copied.
        cell_size: Side of a cell in pixels, at least 1. A size of 8 is fastest. In ``"dalal-triggs"`` also a pair
            (height, width).
        variant: Definition of the features: ``"vlfeat-uoctti"`` is VLFeat's `vl_hog` (UoCTTI, 9 orientations);
            ``"dalal-triggs"`` is scikit-image's `skimage.feature.hog`, with the parameters `orientations` to
            `transform_sqrt`. With cells of 64 pixels a side or more it differs by more than 1e-6, because scikit-image
            adds in float32.
        color: How images of three channels are reduced to one: ``"luma"`` is 0.299 R + 0.587 G + 0.114 B;
            ``"strongest"`` uses at every pixel the channel with the largest gradient, as VLFeat and, with
            `channel_axis`, scikit-image do.
        orientations: Number of undirected orientations, 1 to 180. Only for ``"dalal-triggs"``, like the next three.
        block_size: Side of a block in cells, at least 1, or a pair (height, width).
        block_norm: Normalization of a block: ``"L1"``, ``"L1-sqrt"``, ``"L2"`` or ``"L2-Hys"`` (L2, values clipped at
            0.2, and L2 again).
        transform_sqrt: Whether to replace the values by their square roots first. Those of negative values are NaN.
        dtype: Dtype of the features as a name or a dtype of torch or NumPy: float32, float16, or bfloat16 (tensors
            only), rounded from float32.

    Returns:
        Features of `dtype`, contiguous; a tensor on the images' device for tensors, a NumPy array for arrays.

        ``"vlfeat-uoctti"``: (..., 31, Hc, Wc), where Hc = (H + cell_size // 2) // cell_size and Wc likewise. Channels 0
        to 8 are the directed gradients at k · 20° (y points down), 9 to 17 the opposite directions, 18 to 26 the
        undirected gradients, and 27 to 30 the texture in the blocks of cells to the upper left, upper right, lower left
        and lower right. Values are in [0, 0.43].

        ``"dalal-triggs"``: (..., block_height · block_width · orientations, Hb, Wb), where
        Hb = H // cell_height - block_height + 1 and Wb likewise; channels are in the order (cell row of the block, cell
        column, orientation), and orientation k begins at k · 180° / orientations. Values are in [0, 1].

        A pixel that is not finite affects the cells that its four neighbors vote for (at most 3 × 3) and, through the
        normalization, the cells next to them, or their blocks; a NaN makes them NaN. All others are unaffected.

    Raises:
        TypeError: `images` is not an array or tensor or has another dtype, or a size is not an int.
        ValueError: The shape or device of `images` is invalid, the images are smaller than a cell or a block, a
            parameter is invalid, or the variant does not have it.
        RuntimeError: `images` is on a CUDA device, but this build has no CUDA kernels.

    On the CPU the number of threads is `torch.get_num_threads()` for tensors, and ``OMP_NUM_THREADS`` or the number of
    CPUs available to the process for arrays; it does not affect the result. The environment variable ``PREIMAGE_ISA``
    (avx512, avx2 or portable) selects an instruction set.
    """
    height, width = check_images(images)
    check_choice("variant", variant, VARIANTS)
    check_choice("color", color, COLORS)
    name = check_dtype(dtype, DTYPES, images)
    features: Any
    if variant == "dalal-triggs":
        options = BlockOptions.checked(cell_size, color, orientations, block_size, block_norm, transform_sqrt)
        options.check_size(height, width)
        features = dalal_triggs(as_batch(images), options, name)
        return like_images(features, images)
    check_unused(orientations, block_size, block_norm, transform_sqrt)
    cell_size = check_cell_size(cell_size)
    rows, columns = _cells(height, width, cell_size)
    batch = as_batch(images)
    if is_tensor(batch):
        from preimage.ops.hog_torch import hog_torch

        features = hog_torch(batch, cell_size, variant, color, name)
    else:
        features = np.empty((len(batch), CHANNELS, rows, columns), name)
        hog_into(batch, features, cell_size=cell_size, color=color, threads=cpu_threads())
    return like_images(features, images)


def histograms(images: npt.NDArray[Any], *, cell_size: int, color: str) -> npt.NDArray[np.float32]:
    """Compute the histograms of cells that vlfeat-uoctti normalizes.

    Args:
        images: A NumPy array as for `hog`.
        cell_size: Side of a cell in pixels, at least 1.
        color: As for `hog`.

    Returns:
        (..., 18, Hc, Wc), C-contiguous: the directed gradients at k · 20°, of 0 to 360°.

    Raises:
        TypeError: As in `hog`.
        ValueError: As in `hog`.
    """
    height, width = check_images(images)
    check_choice("color", color, COLORS)
    rows, columns = _cells(height, width, check_cell_size(cell_size))
    batch = readable(as_batch(images))
    output = np.empty((len(batch), DIRECTIONS, rows, columns), np.float32)
    _native.hog_histograms(describe_array(batch), describe_output(output), cell_size, color, cpu_threads())
    found: npt.NDArray[np.float32] = like_images(output, images)
    return found


def _cells(height: int, width: int, cell_size: int) -> tuple[int, int]:
    """Return the numbers of vlfeat-uoctti's cells; raise ``ValueError`` if there are none."""
    rows, columns = cell_count(height, cell_size), cell_count(width, cell_size)
    if rows < 1 or columns < 1:
        needed = cell_size - cell_size // 2
        raise ValueError(
            f"images must have at least {needed} x {needed} pixels for a cell_size of {cell_size}, "
            f"got {height} x {width}"
        )
    return rows, columns


def check_cell_size(cell_size: int | tuple[int, int]) -> int:
    """Return the side of vlfeat-uoctti's cells; raise ``TypeError`` or ``ValueError`` unless it is a positive int."""
    if isinstance(cell_size, (tuple, list)):
        raise TypeError(f"cell_size must be an int in vlfeat-uoctti, got {cell_size!r}")
    check_positive_int("cell_size", cell_size)
    return cell_size


def hog_into(images: npt.NDArray[Any], features: npt.NDArray[Any], *, cell_size: int, color: str, threads: int) -> None:
    """Compute `hog` of images (B, C, H, W) into `features`, (B, 31, Hc, Wc), float32 or float16, C-contiguous.

    The variant is vlfeat-uoctti; see `hog_dalal_triggs.dalal_triggs_into` for the other.

    Raises:
        ValueError: The shape, dtype or strides of `features` are wrong.
    """
    images = readable(images)  # keeps a copy alive until the kernel has read it
    output = describe_output(features)
    _native.hog(describe_array(images), output, cell_size, color, threads)
