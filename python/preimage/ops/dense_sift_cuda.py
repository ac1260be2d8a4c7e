"""Compute dense SIFT and its gradient on CUDA devices: torch ops that call the native kernels."""

from __future__ import annotations

import torch

from preimage.ops._images import dtype_name
from preimage.ops._native_tensors import as_native, describe, require_cuda, stream, workspace
from preimage.ops._output_sizes import Bounds, grid_size
from preimage.ops._schemas import LIBRARY
from preimage.ops.dense_sift_backward import full_bounds


@torch.library.impl(LIBRARY, "dense_sift", "CUDA")
def _dense_sift_cuda(
    images: torch.Tensor,
    step: int,
    bin_size: int,
    window: str,
    window_size: float,
    bounds: Bounds | None,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    native, images = require_cuda(), as_native(images)
    described, box = describe(images), full_bounds(images, bounds)
    parameters = step, bin_size, window, window_size, box
    shape = grid_size(box, step, bin_size)
    features = images.new_empty((described[1][0], 128, *shape), dtype=dtype)
    norms = images.new_empty((described[1][0], 1, *shape), dtype=torch.float32)
    scratch = workspace(images, native.dense_sift_cuda_scratch(described, *parameters, False))
    outputs = describe(features, dtype_name(dtype)), describe(norms)
    native.dense_sift_cuda(described, describe(scratch), *outputs, *parameters, stream(images))
    return features, norms


@torch.library.impl(LIBRARY, "dense_sift_backward", "CUDA")
def _dense_sift_backward_cuda(
    grad_features: torch.Tensor,
    grad_norms: torch.Tensor,
    images: torch.Tensor,
    step: int,
    bin_size: int,
    window: str,
    window_size: float,
    bounds: Bounds | None,
) -> torch.Tensor:
    native, images = require_cuda(), as_native(images)
    described = describe(images)
    parameters = step, bin_size, window, window_size, full_bounds(images, bounds)
    gradients = grad_features.to(torch.float32).contiguous(), grad_norms.to(torch.float32).contiguous()
    result = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    scratch = workspace(images, native.dense_sift_cuda_scratch(described, *parameters, True))
    tensors = describe(gradients[0]), describe(gradients[1]), described, describe(scratch), describe(result)
    native.dense_sift_backward_cuda(*tensors, *parameters, stream(images))
    return result
