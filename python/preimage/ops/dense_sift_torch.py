"""Compute dense SIFT descriptors of tensors: the torch op for the CPU, with or without autograd."""

from __future__ import annotations

from collections.abc import Callable

import torch

from preimage.ops import (
    _native,
    dense_sift_cuda,  # noqa: F401 (registers the op for CUDA)
)
from preimage.ops._function_transforms import applied, check_no_tangent
from preimage.ops._images import dtype_name
from preimage.ops._native_tensors import as_native, describe, needs_gradient
from preimage.ops._output_sizes import Bounds, grid_size
from preimage.ops._schemas import LIBRARY
from preimage.ops.dense_sift_backward import DenseSift, TransformableDenseSift, full_bounds


def dense_sift_torch(
    images: torch.Tensor,
    step: int,
    bin_size: int,
    window: str,
    window_size: float,
    bounds: Bounds | None,
    dtype: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the features and norms of checked images (B, C, H, W), see `preimage.dense_sift`."""
    check_no_tangent("dense_sift", images)
    kind: torch.dtype = getattr(torch, dtype)
    parameters = step, bin_size, window, window_size, bounds
    if needs_gradient(images) and kind.is_floating_point:
        features, norms = applied(DenseSift, TransformableDenseSift, images, *parameters)
        return features.to(kind), norms
    return _op(images, *parameters, kind)


@torch.library.impl(LIBRARY, "dense_sift", "CPU")
def _dense_sift_cpu(
    images: torch.Tensor,
    step: int,
    bin_size: int,
    window: str,
    window_size: float,
    bounds: Bounds | None,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    images = as_native(images)  # keeps a copy alive until the kernel has read it
    described, box = describe(images), full_bounds(images, bounds)
    shape = grid_size(box, step, bin_size)
    features = torch.empty((described[1][0], 128, *shape), dtype=dtype, device="cpu")
    norms = torch.empty((described[1][0], 1, *shape), dtype=torch.float32, device="cpu")
    outputs = describe(features, dtype_name(dtype)), describe(norms)
    threads = torch.get_num_threads()
    _native.dense_sift(described, *outputs, step, bin_size, window, window_size, box, threads)
    return features, norms


_op: Callable[..., tuple[torch.Tensor, torch.Tensor]] = torch.ops.preimage.dense_sift.default
