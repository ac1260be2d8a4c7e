"""Check and convert the images given to the reference functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def checked_images(images: torch.Tensor | npt.NDArray[Any]) -> torch.Tensor:
    """Return images (H, W) or (..., C, H, W) as a tensor of the same shape.

    Raises:
        TypeError: `images` is not an array or tensor, or its dtype is not supported.
        ValueError: The shape or device is not supported.
    """
    if isinstance(images, np.ndarray):
        if images.dtype.name not in ("uint8", "float16", "float32", "float64"):
            raise TypeError(f"images must be uint8, float16, float32 or float64, got {images.dtype.name}")
        tensor = torch.from_numpy(images.astype(images.dtype.newbyteorder("="), order="C"))
    elif isinstance(images, torch.Tensor):
        tensor = images
    else:
        raise TypeError(f"images must be a torch.Tensor or a numpy.ndarray, got {type(images).__name__}")
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point, got {tensor.dtype}")
    if tensor.device.type != "cpu":
        raise ValueError(f"images must be on the CPU, got {tensor.device}")
    if tensor.dim() < 2 or (tensor.dim() > 2 and tensor.shape[-3] not in (1, 3)):
        raise ValueError(
            f"images must be (H, W), (C, H, W) or (B, C, H, W) with C 1 or 3, got shape {tuple(tensor.shape)}"
        )
    return tensor


def as_batch(
    images: torch.Tensor,  # [..., C, H, W] or [H, W]
) -> torch.Tensor:  # [B, C, H, W]
    """Flatten leading dimensions to one batch dimension."""
    planes = images[None] if images.dim() == 2 else images
    return planes.reshape(math.prod(planes.shape[:-3]), *planes.shape[-3:])


def like_images(
    result: torch.Tensor,  # [B, C, h, w]
    images: torch.Tensor,  # [..., C, H, W] or [H, W]
) -> torch.Tensor:  # [..., C, h, w]
    """Restore the leading dimensions of the images."""
    return result.reshape(*images.shape[:-3], *result.shape[1:])


def luma(
    images: torch.Tensor,  # [B, 3, H, W]
) -> torch.Tensor:  # [B, 1, H, W]
    """Compute the luma of RGB images (ITU-R BT.601)."""
    red, green, blue = images.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]
