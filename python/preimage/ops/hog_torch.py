"""Compute HOG features of tensors: torch ops for CPU and CUDA, and autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from preimage.ops import _native
from preimage.ops._function_transforms import applied, batch_over_images, check_no_tangent, save_images, transformable
from preimage.ops._native_tensors import as_native, describe, needs_gradient, require_cuda, stream, workspace
from preimage.ops._once_differentiable import once_differentiable
from preimage.ops._output_sizes import cell_count
from preimage.ops._schemas import LIBRARY


def hog_torch(images: torch.Tensor, cell_size: int, variant: str, color: str, dtype: str) -> torch.Tensor:
    """Compute the features of checked images (B, C, H, W), see `preimage.hog`."""
    check_no_tangent("hog", images)
    if needs_gradient(images):
        features: torch.Tensor = applied(_Hog, _TransformableHog, images, cell_size, variant, color)
    else:
        features = _op(images, cell_size, variant, color)
    return features.to(getattr(torch, dtype))


@torch.library.impl(LIBRARY, "hog", "CPU")
def _hog_cpu(images: torch.Tensor, cell_size: int, variant: str, color: str) -> torch.Tensor:
    images = as_native(images)  # keeps a copy alive until the kernel has read it
    described = describe(images)
    batch, _, height, width = described[1]
    rows, columns = cell_count(height, cell_size), cell_count(width, cell_size)
    output = torch.empty((batch, 31, rows, columns), dtype=torch.float32, device="cpu")
    _native.hog(described, describe(output), cell_size, color, torch.get_num_threads())
    return output


@torch.library.impl(LIBRARY, "hog_backward", "CPU")
def _hog_backward_cpu(
    gradient: torch.Tensor, images: torch.Tensor, cell_size: int, variant: str, color: str
) -> torch.Tensor:
    gradient, images = gradient.to(torch.float32).contiguous(), as_native(images)
    result = torch.empty(images.shape, dtype=torch.float32, device="cpu")
    described = describe(gradient), describe(images), describe(result)
    _native.hog_backward(*described, cell_size, color, torch.get_num_threads())
    return result


@torch.library.impl(LIBRARY, "hog", "CUDA")
def _hog_cuda(images: torch.Tensor, cell_size: int, variant: str, color: str) -> torch.Tensor:
    native, images = require_cuda(), as_native(images)
    described = describe(images)
    batch, _, height, width = described[1]
    rows, columns = cell_count(height, cell_size), cell_count(width, cell_size)
    output = images.new_empty((batch, 31, rows, columns), dtype=torch.float32)
    native.hog_cuda(described, describe(output), cell_size, color, stream(images))
    return output


@torch.library.impl(LIBRARY, "hog_backward", "CUDA")
def _hog_backward_cuda(
    gradient: torch.Tensor, images: torch.Tensor, cell_size: int, variant: str, color: str
) -> torch.Tensor:
    native, images = require_cuda(), as_native(images)
    gradient = gradient.to(torch.float32).contiguous()
    result = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    described = describe(images)
    scratch = workspace(images, native.hog_backward_cuda_scratch(described, cell_size, color))
    tensors = describe(gradient), described, describe(scratch), describe(result)
    native.hog_backward_cuda(*tensors, cell_size, color, stream(images))
    return result


_op: Callable[[torch.Tensor, int, str, str], torch.Tensor] = torch.ops.preimage.hog.default
_backward: Callable[[torch.Tensor, torch.Tensor, int, str, str], torch.Tensor]
_backward = torch.ops.preimage.hog_backward.default
batch_over_images("hog")
batch_over_images("hog_backward", gradients=1)


class _Hog(torch.autograd.Function):
    """Autograd function of the op, used only if a gradient is required, because it adds overhead."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, cell_size: int, variant: str, color: str) -> torch.Tensor:
        save_images(ctx, images, cell_size, variant, color)
        return _op(images, cell_size, variant, color)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (images,) = ctx.saved_tensors
        result = _backward(gradient, images, *ctx.parameters).to(images.dtype)
        return once_differentiable("hog", result, gradient, images), None, None, None


_TransformableHog = transformable(_Hog, _op)
