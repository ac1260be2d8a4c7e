"""Sparse SIFT: check, describe the memory, call whoever computes the variant."""

from __future__ import annotations

import numpy as np
import torch

from preimage.keypoints import Keypoints
from preimage.ops._images import (
    Images,
    check_choice,
    check_shape,
    check_tensor,
    needs_gradient,
    readable,
    wrong_container,
)
from preimage.ops.sparse_sift_opencv import opencv_sift

VARIANTS = ("vlfeat", "opencv")


def sift(images: Images, *, variant: str = "vlfeat") -> Keypoints:
    """Keypoints of every image, with SIFT descriptors.

    Args:
        images: (H, W), (C, H, W) or (B, C, H, W), y down; C is 1 or 3 (red, green, blue; their luma
            0.299 R + 0.587 G + 0.114 B is taken); B may be 0. uint8 (divided by 255), float16, bfloat16, float32 or
            float64 with values in [0, 1]. Any strides. A tensor on the CPU or a NumPy array.
        variant: ``"opencv"`` for OpenCV's.

    Returns:
        `Keypoints`, a batch of one for a single image.
    """
    check_choice("variant", variant, VARIANTS)
    if isinstance(images, torch.Tensor):
        _check_tensor(images)
    elif not isinstance(images, np.ndarray):
        raise wrong_container(images)
    check_shape(tuple(images.shape))
    if variant == "vlfeat":
        raise NotImplementedError("the vlfeat variant is not there yet: pass variant='opencv'")
    if isinstance(images, torch.Tensor):
        array = (images if images.dtype == torch.uint8 else images.to(torch.float32)).numpy()
    else:
        array = readable(images)
    return opencv_sift(array.reshape((1,) * (4 - array.ndim) + array.shape))


def _check_tensor(images: torch.Tensor) -> None:
    check_tensor(images)
    if images.device.type != "cpu":
        raise ValueError(f"sparse SIFT is computed on the CPU, got images on {images.device}: pass images.cpu()")
    if needs_gradient(images):
        raise ValueError(
            "sparse SIFT has no gradient, got a tensor that requires one: pass images.detach() or call it under "
            "torch.no_grad()"
        )
