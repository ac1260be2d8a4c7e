"""Compute Dalal and Triggs's HOG of tensors: torch ops for CPU and CUDA, and autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from preimage.ops import _native
from preimage.ops._function_transforms import (
    applied,
    batch_over_images,
    check_no_tangent,
    save_images,
    transformable,
)
from preimage.ops._images import Description
from preimage.ops._native_tensors import as_native, describe, needs_gradient, require_cuda, stream
from preimage.ops._once_differentiable import once_differentiable
from preimage.ops._output_sizes import block_grid
from preimage.ops._schemas import LIBRARY

# cell_size, color, orientations, block_size, block_norm, transform_sqrt
_Parameters = tuple[tuple[int, int], str, int, tuple[int, int], str, bool]


def dalal_triggs_torch(images: torch.Tensor, parameters: _Parameters, dtype: str) -> torch.Tensor:
    """Compute the features of checked images (B, C, H, W) with `BlockOptions.native()`, see `preimage.hog`."""
    check_no_tangent("hog", images)
    if needs_gradient(images):
        features: torch.Tensor = applied(_DalalTriggs, _TransformableDalalTriggs, images, *parameters)
    else:
        features = _op(images, *parameters)
    return features.to(getattr(torch, dtype))


def _readable(images: torch.Tensor) -> torch.Tensor:
    return images if images.dtype == torch.float64 else as_native(images)


def _described(images: torch.Tensor) -> Description:
    return describe(images, "float64" if images.dtype == torch.float64 else None)


def _workspace(images: torch.Tensor, doubles: int) -> torch.Tensor:
    return torch.empty(max(doubles, 1), dtype=torch.float64, device=images.device)


@torch.library.impl(LIBRARY, "hog_dalal_triggs", "CPU")
def _dalal_triggs_cpu(
    images: torch.Tensor,
    cell_size: list[int],
    color: str,
    orientations: int,
    block_size: list[int],
    block_norm: str,
    transform_sqrt: bool,
) -> torch.Tensor:
    images = _readable(images)  # keeps a copy alive until the kernel has read it
    described = _described(images)
    batch, _, height, width = described[1]
    cell, block = (cell_size[0], cell_size[1]), (block_size[0], block_size[1])
    rows, columns = block_grid((height, width), cell, block)
    channels = block[0] * block[1] * orientations
    output = torch.empty((batch, channels, rows, columns), dtype=torch.float32, device="cpu")
    options = cell, color, orientations, block, block_norm, transform_sqrt
    _native.hog_dalal_triggs(described, describe(output), *options, torch.get_num_threads())
    return output


@torch.library.impl(LIBRARY, "hog_dalal_triggs_backward", "CPU")
def _dalal_triggs_backward_cpu(
    gradient: torch.Tensor,
    images: torch.Tensor,
    cell_size: list[int],
    color: str,
    orientations: int,
    block_size: list[int],
    block_norm: str,
    transform_sqrt: bool,
) -> torch.Tensor:
    gradient, images = gradient.to(torch.float32).contiguous(), _readable(images)
    result = torch.empty(images.shape, dtype=torch.float32, device="cpu")
    threads = torch.get_num_threads()
    cell, block = (cell_size[0], cell_size[1]), (block_size[0], block_size[1])
    options = cell, color, orientations, block, block_norm, transform_sqrt
    tensors = describe(gradient), _described(images), describe(result)
    _native.hog_dalal_triggs_backward(tensors[0], tensors[1], tensors[2], *options, threads)
    return result


@torch.library.impl(LIBRARY, "hog_dalal_triggs", "CUDA")
def _dalal_triggs_cuda(
    images: torch.Tensor,
    cell_size: list[int],
    color: str,
    orientations: int,
    block_size: list[int],
    block_norm: str,
    transform_sqrt: bool,
) -> torch.Tensor:
    native, images = require_cuda(), _readable(images)
    described = _described(images)
    batch, _, height, width = described[1]
    rows, columns = block_grid((height, width), cell_size, block_size)
    channels = block_size[0] * block_size[1] * orientations
    output = torch.empty((batch, channels, rows, columns), dtype=torch.float32, device=images.device)
    options = cell_size, color, orientations, block_size, block_norm, transform_sqrt
    scratch = _workspace(images, native.hog_dalal_triggs_cuda_scratch(described, *options, False))
    native.hog_dalal_triggs_cuda(described, _described(scratch), describe(output), *options, stream(images))
    return output


@torch.library.impl(LIBRARY, "hog_dalal_triggs_backward", "CUDA")
def _dalal_triggs_backward_cuda(
    gradient: torch.Tensor,
    images: torch.Tensor,
    cell_size: list[int],
    color: str,
    orientations: int,
    block_size: list[int],
    block_norm: str,
    transform_sqrt: bool,
) -> torch.Tensor:
    native, images = require_cuda(), _readable(images)
    gradient = gradient.to(torch.float32).contiguous()
    result = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    described = _described(images)
    options = cell_size, color, orientations, block_size, block_norm, transform_sqrt
    scratch = _workspace(images, native.hog_dalal_triggs_cuda_scratch(described, *options, True))
    tensors = describe(gradient), described, _described(scratch), describe(result)
    native.hog_dalal_triggs_backward_cuda(*tensors, *options, stream(images))
    return result


_op: Callable[..., torch.Tensor] = torch.ops.preimage.hog_dalal_triggs.default
_backward: Callable[..., torch.Tensor] = torch.ops.preimage.hog_dalal_triggs_backward.default
batch_over_images("hog_dalal_triggs")
batch_over_images("hog_dalal_triggs_backward", gradients=1)


class _DalalTriggs(torch.autograd.Function):
    """Autograd function of the op, used only if a gradient is required, because it adds overhead."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, *parameters: Any) -> torch.Tensor:
        save_images(ctx, images, *parameters)
        return _op(images, *parameters)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (images,) = ctx.saved_tensors
        result = _backward(gradient, images, *ctx.parameters).to(images.dtype)
        return once_differentiable("hog", result, gradient, images), *(None,) * len(ctx.parameters)


_TransformableDalalTriggs = transformable(_DalalTriggs, _op)
