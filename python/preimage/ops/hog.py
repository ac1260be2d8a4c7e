"""HOG on the CPU: check, describe the memory, call the native kernel."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from preimage import _native
from preimage.ops._library import LIBRARY, cell_count

CHANNELS = 31
VARIANTS = ("vlfeat-uoctti",)
COLOURS = ("luma", "strongest")

# What the kernel reads itself, and what is turned into float32 first.
_NATIVE_TYPES = {torch.uint8: "uint8", torch.float32: "float32"}
_CONVERTED_TYPES = {torch.float16, torch.bfloat16, torch.float64}
_NATIVE_ARRAYS = {np.dtype(np.uint8): "uint8", np.dtype(np.float32): "float32"}  # in this machine's byte order

_Description = tuple[int, tuple[int, ...], tuple[int, ...], str, str]


def hog(
    images: torch.Tensor | npt.NDArray[Any],
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
        _check_tensor(images)
        _check(images.shape, cell_size, variant, colour)
        return _op(images, cell_size, variant, colour)
    if isinstance(images, np.ndarray):
        array = _readable(images)
        _check(array.shape, cell_size, variant, colour)
        address = array.__array_interface__["data"][0]
        return _run((address, array.shape, array.strides, _NATIVE_ARRAYS[array.dtype], "cpu"), cell_size, colour)
    raise TypeError(f"images must be a torch.Tensor or a numpy.ndarray, got {type(images).__name__}")


def _check_tensor(images: torch.Tensor) -> None:
    if images.dtype not in _NATIVE_TYPES and images.dtype not in _CONVERTED_TYPES:
        _wrong_type(str(images.dtype))
    if not images.is_cpu:
        raise ValueError(f"HOG runs on the CPU, got a tensor on {images.device}: pass images.cpu()")
    if images.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "HOG has no gradient yet, got a tensor that requires one: "
            "pass images.detach() or call it under torch.no_grad()"
        )


def _readable(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself where the kernel can read it, else a copy that it can."""
    if images.dtype in _NATIVE_ARRAYS and images.flags.aligned:
        return images
    if images.dtype == np.uint8:
        return images.copy()
    if images.dtype.kind != "f" or images.dtype.itemsize > 8:
        _wrong_type(images.dtype.name)
    return images.astype(np.float32)


def _wrong_type(name: str) -> NoReturn:
    raise TypeError(f"images must be uint8, float16, bfloat16, float32 or float64, got {name}")


def _check(shape: tuple[int, ...], cell_size: int, variant: str, colour: str) -> None:
    rank = len(shape)
    if not 2 <= rank <= 4:
        raise ValueError(f"images must be (H, W), (C, H, W) or (B, C, H, W), got shape {tuple(shape)}")
    if rank > 2 and shape[-3] not in (1, 3):
        hint = "; channels come before rows and columns, not last" if shape[-1] in (1, 3) else ""
        raise ValueError(f"images must have 1 or 3 channels, got {shape[-3]} in shape {tuple(shape)}{hint}")
    if type(cell_size) is not int:
        raise TypeError(f"cell_size must be an int, got {cell_size!r}")
    if cell_size < 1:
        raise ValueError(f"cell_size must be at least 1 pixel, got {cell_size}")
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    if colour not in COLOURS:
        raise ValueError(f"colour must be one of {', '.join(COLOURS)}, got {colour!r}")
    height, width = shape[-2], shape[-1]
    if height < 1 or width < 1:
        raise ValueError(f"images must not be empty, got {height} x {width} pixels")
    if cell_count(height, cell_size) < 1 or cell_count(width, cell_size) < 1:
        needed = cell_size - cell_size // 2
        raise ValueError(
            f"an image must have at least {needed} x {needed} pixels for a cell of {cell_size}, got {height} x {width}"
        )


def _describe(tensor: torch.Tensor) -> _Description:
    size = tensor.element_size()
    strides = tuple(stride * size for stride in tensor.stride())
    return tensor.data_ptr(), tuple(tensor.shape), strides, _NATIVE_TYPES[tensor.dtype], "cpu"


def _run(images: _Description, cell_size: int, colour: str) -> torch.Tensor:
    address, shape, strides, dtype, device = images
    missing = 4 - len(shape)
    shape = (1,) * missing + shape
    strides = (0,) * missing + strides
    rows, columns = cell_count(shape[2], cell_size), cell_count(shape[3], cell_size)
    output = torch.empty((shape[0], CHANNELS, rows, columns), dtype=torch.float32, device="cpu")
    _native.hog(
        (address, shape, strides, dtype, device),
        _describe(output),
        cell_size,
        colour,
        os.environ.get("PREIMAGE_ISA", ""),
        torch.get_num_threads(),
    )
    return output


@torch.library.impl(LIBRARY, "hog", "CPU")
def _hog_cpu(images: torch.Tensor, cell_size: int, variant: str, colour: str) -> torch.Tensor:
    if images.dtype not in _NATIVE_TYPES:
        images = images.to(torch.float32)
    return _run(_describe(images), cell_size, colour)


_op: Callable[[torch.Tensor, int, str, str], torch.Tensor] = torch.ops.preimage.hog.default
