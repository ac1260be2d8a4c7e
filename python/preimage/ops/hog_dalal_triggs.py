"""Compute Dalal and Triggs's HOG with the native kernels. Imports torch only for tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.ops import _native
from preimage.ops._block_options import BlockOptions
from preimage.ops._images import cpu_threads, describe_array, describe_output, is_tensor, readable


def dalal_triggs(images: Any, options: BlockOptions, dtype: str) -> Any:
    """Compute features of checked images (B, C, H, W), a tensor or an array, in the same container."""
    if is_tensor(images):
        from preimage.ops.hog_dalal_triggs_torch import dalal_triggs_torch

        return dalal_triggs_torch(images, options, dtype)
    features = np.empty((len(images), options.channels, *options.grid(*images.shape[2:])), dtype)
    dalal_triggs_into(images, features, options, threads=cpu_threads())
    return features


def dalal_triggs_into(
    images: npt.NDArray[Any], features: npt.NDArray[Any], options: BlockOptions, *, threads: int
) -> None:
    """Compute `dalal_triggs` of images (B, C, H, W) into `features`, float32 or float16, C-contiguous.

    Args:
        images: uint8, float16, float32 or float64.
        features: (B, options.channels, Hb, Wb), see `preimage.hog`.
        options: Checked options.
        threads: Number of threads.

    Raises:
        ValueError: The shape, dtype or strides of `features` are wrong.
    """
    images = readable(images, doubles=True)  # keeps a copy alive until the kernel has read it
    output = describe_output(features)
    _native.hog_dalal_triggs(describe_array(images), output, *options.native(), threads)
