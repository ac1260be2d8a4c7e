"""HOG: check, describe the memory, call the native kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from preimage import _native
from preimage.ops._images import (
    Description,
    Images,
    as_native,
    check_choice,
    check_shape,
    check_tensor,
    check_whole,
    describe,
    describe_array,
    instruction_set,
    needs_gradient,
    readable,
    wrong_container,
)
from preimage.ops._library import LIBRARY, cell_count

CHANNELS = 31
VARIANTS = ("vlfeat-uoctti",)
COLOURS = ("luma", "strongest")


def hog(
    images: Images,
    *,
    cell_size: int = 8,
    variant: str = "vlfeat-uoctti",
    colour: str = "luma",
) -> torch.Tensor:
    """Histograms of oriented gradients, equal to VLFeat's `vl_hog` (UoCTTI, 9 orientations) within 1e-6.

    Args:
        images: (H, W), (C, H, W) or (B, C, H, W), y down; C is 1 or 3 (red, green, blue); B may be 0.
            uint8 (divided by 255), float16, bfloat16, float32 or float64 with values in [0, 1] (not enforced;
            the normalisation's epsilon makes the features depend on the range). Any strides; uint8 and float32
            are read where they lie. A tensor in the CPU's memory or a NumPy array.
        cell_size: side of a cell in pixels, at least 1. 8 is the fast one.
        variant: the definition followed; only ``"vlfeat-uoctti"``.
        colour: what becomes of three channels: ``"luma"`` takes 0.299 R + 0.587 G + 0.114 B; ``"strongest"``
            takes at every pixel the channel with the longest gradient, the first of equals, as VLFeat does.

    Returns:
        float32 (B, 31, Hc, Wc), contiguous, B = 1 for a single image, Hc = (H + cell_size // 2) // cell_size and
        Wc alike. Channels: 0-8 directed at k · 20° (y down), 9-17 the opposite directions, 18-26 undirected,
        27-30 texture of the cells' blocks upper left, upper right, lower left, lower right. Values in [0, 0.43].

        A pixel that is not finite spoils the cells that its four neighbours vote for (at most 3 × 3) and the cells
        next to those, which share their normalisation; a NaN makes them NaN. All others keep their values to the bit.

    Raises:
        TypeError: not an array or tensor, or of another dtype; `cell_size` not an int.
        ValueError: wrong rank, channel count or device; an empty image or one too small for a cell; an unknown
            `variant` or `colour`; a tensor that requires a gradient (there is none yet), outside `no_grad`.

    The number of threads is `torch.get_num_threads()`; it does not change the numbers. The environment variable
    ``PREIMAGE_ISA`` (avx512, avx2, portable) forces an instruction set.
    """
    if isinstance(images, torch.Tensor):
        check_tensor(images)
        if not images.is_cpu:
            raise ValueError(f"HOG runs on the CPU, got a tensor on {images.device}: pass images.cpu()")
        if needs_gradient(images):
            raise ValueError(
                "HOG has no gradient yet, got a tensor that requires one: "
                "pass images.detach() or call it under torch.no_grad()"
            )
        _check(images.shape, cell_size, variant, colour)
        return _op(images, cell_size, variant, colour)
    if isinstance(images, np.ndarray):
        array = readable(images)
        _check(array.shape, cell_size, variant, colour)
        return _run(describe_array(array), cell_size, colour)
    raise wrong_container(images)


def _check(shape: tuple[int, ...], cell_size: int, variant: str, colour: str) -> None:
    height, width = check_shape(shape)
    check_whole("cell_size", cell_size)
    check_choice("variant", variant, VARIANTS)
    check_choice("colour", colour, COLOURS)
    if cell_count(height, cell_size) < 1 or cell_count(width, cell_size) < 1:
        needed = cell_size - cell_size // 2
        raise ValueError(
            f"an image must have at least {needed} x {needed} pixels for a cell of {cell_size}, got {height} x {width}"
        )


def _run(images: Description, cell_size: int, colour: str) -> torch.Tensor:
    batch, _, height, width = images[1]
    rows, columns = cell_count(height, cell_size), cell_count(width, cell_size)
    output = torch.empty((batch, CHANNELS, rows, columns), dtype=torch.float32, device="cpu")
    _native.hog(images, describe(output), cell_size, colour, instruction_set(), torch.get_num_threads())
    return output


@torch.library.impl(LIBRARY, "hog", "CPU")
def _hog_cpu(images: torch.Tensor, cell_size: int, variant: str, colour: str) -> torch.Tensor:
    images = as_native(images)  # by name, so that a copy lives until the kernel has read it
    return _run(describe(images), cell_size, colour)


_op: Callable[[torch.Tensor, int, str, str], torch.Tensor] = torch.ops.preimage.hog.default
