"""HOG: check, describe the memory, call the native kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from preimage.ops import _native
from preimage.ops._derivatives import last_derivative
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
    working_memory,
    wrong_container,
)
from preimage.ops._library import LIBRARY, cell_count

CHANNELS = 31
VARIANTS = ("vlfeat-uoctti",)
COLOURS = ("luma", "strongest")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def hog(
    images: Images,
    *,
    cell_size: int = 8,
    variant: str = "vlfeat-uoctti",
    colour: str = "luma",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Histograms of oriented gradients, equal to VLFeat's `vl_hog` (UoCTTI, 9 orientations) within 1e-6.

    Args:
        images: (H, W), (C, H, W) or (B, C, H, W), y down; C is 1 or 3 (red, green, blue); B may be 0.
            uint8 (divided by 255), float16, bfloat16, float32 or float64 with values in [0, 1] (not enforced;
            the normalisation's epsilon makes the features depend on the range). Any strides; uint8 and float32
            are read where they lie. A tensor on the CPU or a CUDA device, or a NumPy array.
        cell_size: side of a cell in pixels, at least 1. 8 is the fast one.
        variant: the definition followed; only ``"vlfeat-uoctti"``.
        colour: what becomes of three channels: ``"luma"`` takes 0.299 R + 0.587 G + 0.114 B; ``"strongest"``
            takes at every pixel the channel with the longest gradient, the first of equals, as VLFeat does.
        dtype: of the features: float32, float16 or bfloat16, rounded from float32.

    Returns:
        (B, 31, Hc, Wc) of `dtype`, contiguous, on the images' device, B = 1 for a single image,
        Hc = (H + cell_size // 2) // cell_size and Wc alike. Channels: 0-8 directed at k · 20° (y down), 9-17 the
        opposite directions, 18-26 undirected, 27-30 texture of the cells' blocks upper left, upper right, lower left,
        lower right. Values in [0, 0.43].

        A pixel that is not finite spoils the cells that its four neighbours vote for (at most 3 × 3) and the cells
        next to those, which share their normalisation; a NaN makes them NaN. All others keep their values to the bit.

    Raises:
        TypeError: not an array or tensor, or of another dtype; `cell_size` not an int.
        ValueError: wrong rank, channel count or device; an empty image or one too small for a cell; an unknown
            `variant`, `colour` or `dtype`.
        RuntimeError: a CUDA tensor where the package was built without CUDA.

    Gradients flow back to the images, on either device. Where HOG has a kink, one side counts: a clipped value passes
    nothing on (a value at the level of clipping does), a pixel's vote keeps its direction and its channel, and a
    pixel without gradient passes nothing on. The gradient itself has none.

    On the CPU the number of threads is `torch.get_num_threads()`; it does not change the numbers. The environment
    variable ``PREIMAGE_ISA`` (avx512, avx2, portable) forces an instruction set.
    """
    check_dtype(dtype, DTYPES)
    if isinstance(images, torch.Tensor):
        check_tensor(images)
        _check(images.shape, cell_size, variant, colour)
        if needs_gradient(images):
            features: torch.Tensor = _Hog.apply(images, cell_size, variant, colour)  # type: ignore[no-untyped-call]
        else:
            features = _op(images, cell_size, variant, colour)
    elif isinstance(images, np.ndarray):
        array = readable(images)
        _check(array.shape, cell_size, variant, colour)
        features = _run(describe_array(array), cell_size, colour)
    else:
        raise wrong_container(images)
    return features if dtype == torch.float32 else features.to(dtype)


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


@torch.library.impl(LIBRARY, "hog_backward", "CPU")
def _hog_backward_cpu(
    gradient: torch.Tensor, images: torch.Tensor, cell_size: int, variant: str, colour: str
) -> torch.Tensor:
    gradient, images = gradient.to(torch.float32).contiguous(), as_native(images)
    result = torch.empty(images.shape, dtype=torch.float32, device="cpu")
    described = describe(gradient), describe(images), describe(result)
    _native.hog_backward(*described, cell_size, colour, instruction_set(), torch.get_num_threads())
    return result


@torch.library.impl(LIBRARY, "hog", "CUDA")
def _hog_cuda(images: torch.Tensor, cell_size: int, variant: str, colour: str) -> torch.Tensor:
    native, images = with_cuda(), as_native(images)
    described = describe(images)
    batch, _, height, width = described[1]
    rows, columns = cell_count(height, cell_size), cell_count(width, cell_size)
    output = images.new_empty((batch, CHANNELS, rows, columns), dtype=torch.float32)
    scratch = working_memory(images, native.hog_cuda_scratch(described, cell_size, colour, False))
    native.hog_cuda(described, describe(scratch), describe(output), cell_size, colour, stream(images))
    return output


@torch.library.impl(LIBRARY, "hog_backward", "CUDA")
def _hog_backward_cuda(
    gradient: torch.Tensor, images: torch.Tensor, cell_size: int, variant: str, colour: str
) -> torch.Tensor:
    native, images = with_cuda(), as_native(images)
    gradient = gradient.to(torch.float32).contiguous()
    result = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    described = describe(images)
    scratch = working_memory(images, native.hog_cuda_scratch(described, cell_size, colour, True))
    tensors = describe(gradient), described, describe(scratch), describe(result)
    native.hog_backward_cuda(*tensors, cell_size, colour, stream(images))
    return result


_op: Callable[[torch.Tensor, int, str, str], torch.Tensor] = torch.ops.preimage.hog.default
_backward: Callable[[torch.Tensor, torch.Tensor, int, str, str], torch.Tensor]
_backward = torch.ops.preimage.hog_backward.default


class _Hog(torch.autograd.Function):
    """The op with its gradient; apart from it, because a call without one shall not pay for it."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, cell_size: int, variant: str, colour: str) -> torch.Tensor:
        ctx.save_for_backward(images)
        ctx.parameters = (cell_size, variant, colour)
        return _op(images, cell_size, variant, colour)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (images,) = ctx.saved_tensors
        result = _backward(gradient, images, *ctx.parameters).to(images.dtype)
        return last_derivative("hog", result, gradient, images), None, None, None
