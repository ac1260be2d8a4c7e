"""LBP: check, describe the memory, call the native kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from preimage.ops import _native
from preimage.ops._images import (
    Description,
    Images,
    as_native,
    check_choice,
    check_dtype,
    check_shape,
    check_tensor,
    check_whole,
    describe,
    describe_array,
    instruction_set,
    needs_gradient,
    readable,
    stream,
    with_cuda,
    wrong_container,
)
from preimage.ops._library import LIBRARY

CHANNELS = 58
VARIANTS = ("vlfeat-uniform",)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LARGEST_CELL = 2**15  # a cell's votes are counted in 64 bits


def lbp(
    images: Images,
    *,
    cell_size: int = 16,
    variant: str = "vlfeat-uniform",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Histograms of local binary patterns, bit for bit those of VLFeat's `vl_lbp`.

    Args:
        images: (H, W), (C, H, W) or (B, C, H, W), y down; C is 1 or 3 (red, green, blue: their luma
            0.299 R + 0.587 G + 0.114 B is taken); B may be 0. uint8 (divided by 255), float16, bfloat16, float32 or
            float64 (turned into float32, where close values can become equal). Any strides; uint8 and float32 are
            read where they lie. A tensor in the CPU's memory or on a CUDA device, or a NumPy array.
        cell_size: side of a cell in pixels, 1 to 32768. 16 is the fast one.
        variant: the definition followed; only ``"vlfeat-uniform"``.
        dtype: of the result: float32, float16 or bfloat16. It is computed in float32 and then rounded.

    Returns:
        (B, 58, H // cell_size, W // cell_size), contiguous, B = 1 for a single image. A pixel's code has one bit
        for each of its eight neighbours, clockwise from the right, set where the neighbour is greater. Channel
        7 i + j - 1 counts the codes whose ones are a run of length j, 1 to 7, from bit i on; 56 those of all zeros
        or all ones; 57 the others. Pixels on the image's border do not vote. Each votes bilinearly for its four
        nearest cells. A cell's features are the square roots of its votes' shares: their squares sum up to 1, or
        to 0 where no pixel votes.

        Only the order of the values counts. With one channel, uint8, the same numbers as floats, and those divided
        by 255 give equal results; with three, uint8 gives what it gives divided by 255 in float32, while other
        scales round the luma differently, which can turn near-ties. A NaN is neither greater nor exceeded: its own
        code is all zeros, and its bit is clear in its neighbours' codes.

        Votes are counted in whole numbers: CPU and GPU, any number of threads and any instruction set give the same
        bits. They are VLFeat's bits where the cell size is a power of two up to 32. With others VLFeat's own float32
        sums are inexact: results then differ by up to 1e-6 in small images and some 1e-6 in large ones.

    Raises:
        TypeError: not an array or tensor, or of another dtype; `cell_size` not an int.
        ValueError: wrong rank, channel count or device; an empty image or one smaller than a cell; `cell_size` out of
            range; an unknown `variant` or `dtype`; a tensor that requires a gradient, outside `no_grad`: LBP only
            compares pixels, its derivative is zero almost everywhere.
        RuntimeError: a tensor on a CUDA device, in a build without CUDA.

    The CPU's number of threads is `torch.get_num_threads()`. The environment variable ``PREIMAGE_ISA`` (avx512,
    avx2, portable) forces an instruction set. On a GPU the work is queued on the current stream.
    """
    check_dtype(dtype, DTYPES)
    if isinstance(images, torch.Tensor):
        _check_tensor(images)
        _check_cells(images.shape, cell_size)
        check_choice("variant", variant, VARIANTS)
        return _lbp_op(images, cell_size, variant).to(dtype)
    if isinstance(images, np.ndarray):
        array = readable(images)
        _check_cells(array.shape, cell_size)
        check_choice("variant", variant, VARIANTS)
        return _run(describe_array(array), cell_size).to(dtype)
    raise wrong_container(images)


def lbp_codes(images: Images, *, variant: str = "vlfeat-uniform") -> torch.Tensor:
    """Every pixel's label: what `lbp` counts.

    Args:
        images: as `lbp`; at least 1 x 1 pixels.
        variant: only ``"vlfeat-uniform"``.

    Returns:
        uint8 (B, 1, H, W), contiguous: the channel of `lbp` that the pixel votes for, 0 to 57, and 255 for the pixels
        of the image's border, which do not vote.

    Raises:
        TypeError, ValueError, RuntimeError: as `lbp`.
    """
    if isinstance(images, torch.Tensor):
        _check_tensor(images)
        check_shape(images.shape)
        check_choice("variant", variant, VARIANTS)
        return _codes_op(images, variant)
    if isinstance(images, np.ndarray):
        array = readable(images)
        check_shape(array.shape)
        check_choice("variant", variant, VARIANTS)
        return _run_codes(describe_array(array))
    raise wrong_container(images)


def _check_tensor(images: torch.Tensor) -> None:
    check_tensor(images)
    if needs_gradient(images):
        raise ValueError(
            "LBP has no useful gradient (it compares pixels: its derivative is zero almost everywhere), got a tensor "
            "that requires one: pass images.detach() or call it under torch.no_grad()"
        )


def _check_cells(shape: tuple[int, ...], cell_size: int) -> None:
    height, width = check_shape(shape)
    check_whole("cell_size", cell_size)
    if cell_size > LARGEST_CELL:
        raise ValueError(f"cell_size must be at most {LARGEST_CELL} pixels, got {cell_size}")
    if height < cell_size or width < cell_size:
        raise ValueError(f"an image must have at least {cell_size} x {cell_size} pixels, got {height} x {width}")


def _run(images: Description, cell_size: int) -> torch.Tensor:
    batch, _, height, width = images[1]
    shape = (batch, CHANNELS, height // cell_size, width // cell_size)
    output = torch.empty(shape, dtype=torch.float32, device="cpu")
    _native.lbp(images, describe(output), cell_size, instruction_set(), torch.get_num_threads())
    return output


def _run_codes(images: Description) -> torch.Tensor:
    batch, _, height, width = images[1]
    output = torch.empty((batch, 1, height, width), dtype=torch.uint8, device="cpu")
    _native.lbp_codes(images, describe(output), instruction_set(), torch.get_num_threads())
    return output


@torch.library.impl(LIBRARY, "lbp", "CPU")
def _lbp_cpu(images: torch.Tensor, cell_size: int, variant: str) -> torch.Tensor:
    images = as_native(images)  # by name, so that a copy lives until the kernel has read it
    return _run(describe(images), cell_size)


@torch.library.impl(LIBRARY, "lbp_codes", "CPU")
def _codes_cpu(images: torch.Tensor, variant: str) -> torch.Tensor:
    images = as_native(images)
    return _run_codes(describe(images))


@torch.library.impl(LIBRARY, "lbp", "CUDA")
def _lbp_cuda(images: torch.Tensor, cell_size: int, variant: str) -> torch.Tensor:
    native, images = with_cuda(), as_native(images)
    described = describe(images)
    batch, _, height, width = described[1]
    shape = (batch, CHANNELS, height // cell_size, width // cell_size)
    output = images.new_empty(shape, dtype=torch.float32)
    native.lbp_cuda(described, describe(output), cell_size, stream(images))
    return output


@torch.library.impl(LIBRARY, "lbp_codes", "CUDA")
def _codes_cuda(images: torch.Tensor, variant: str) -> torch.Tensor:
    native, images = with_cuda(), as_native(images)
    described = describe(images)
    batch, _, height, width = described[1]
    output = images.new_empty((batch, 1, height, width), dtype=torch.uint8)
    native.lbp_codes_cuda(described, describe(output), stream(images))
    return output


_lbp_op: Callable[[torch.Tensor, int, str], torch.Tensor] = torch.ops.preimage.lbp.default
_codes_op: Callable[[torch.Tensor, str], torch.Tensor] = torch.ops.preimage.lbp_codes.default
