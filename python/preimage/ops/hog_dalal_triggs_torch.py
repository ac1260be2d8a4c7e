"""Compute Dalal and Triggs's HOG of tensors: torch ops for CPU and CUDA, and autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from preimage.ops import _native
from preimage.ops._block_options import BlockOptions
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
from preimage.ops._schemas import LIBRARY


def dalal_triggs_torch(images: torch.Tensor, options: BlockOptions, dtype: str) -> torch.Tensor:
    """Compute the features of checked images (B, C, H, W), see `preimage.hog`."""
    check_no_tangent("hog", images)
    if needs_gradient(images):
        features: torch.Tensor = applied(_DalalTriggs, _TransformableDalalTriggs, images, *options.native())
    else:
        features = _op(images, *options.native())
    return features.to(getattr(torch, dtype))


def _readable(images: torch.Tensor) -> torch.Tensor:
    return images if images.dtype == torch.float64 else as_native(images)


def _described(images: torch.Tensor) -> Description:
    return describe(images, "float64" if images.dtype == torch.float64 else None)


def _features(described: Description, options: BlockOptions, device: torch.device) -> torch.Tensor:
    batch, _, height, width = described[1]
    shape = batch, options.channels, *options.grid(height, width)
    return torch.empty(shape, dtype=torch.float32, device=device)


def _like(images: torch.Tensor) -> torch.Tensor:
    return torch.empty(images.shape, dtype=torch.float32, device=images.device)


def _workspace(images: torch.Tensor, doubles: int) -> torch.Tensor:
    return torch.empty(max(doubles, 1), dtype=torch.float64, device=images.device)


# The parameters of the ops are those of `BlockOptions.native`, with lists as sizes.


@torch.library.impl(LIBRARY, "hog_dalal_triggs", "CPU")
def _dalal_triggs_cpu(images: torch.Tensor, *parameters: Any) -> torch.Tensor:
    options, images = BlockOptions(*parameters), _readable(images)  # keeps a copy alive until the kernel has read it
    described = _described(images)
    output = _features(described, options, images.device)
    _native.hog_dalal_triggs(described, describe(output), *options.native(), torch.get_num_threads())
    return output


@torch.library.impl(LIBRARY, "hog_dalal_triggs_backward", "CPU")
def _dalal_triggs_backward_cpu(gradient: torch.Tensor, images: torch.Tensor, *parameters: Any) -> torch.Tensor:
    options, images = BlockOptions(*parameters), _readable(images)
    gradient, result = gradient.to(torch.float32).contiguous(), _like(images)
    described, output, threads = _described(images), describe(result), torch.get_num_threads()
    _native.hog_dalal_triggs_backward(describe(gradient), described, output, *options.native(), threads)
    return result


@torch.library.impl(LIBRARY, "hog_dalal_triggs", "CUDA")
def _dalal_triggs_cuda(images: torch.Tensor, *parameters: Any) -> torch.Tensor:
    native, options, images = require_cuda(), BlockOptions(*parameters), _readable(images)
    described = _described(images)
    output = _features(described, options, images.device)
    scratch = _workspace(images, native.hog_dalal_triggs_cuda_scratch(described, *options.native(), False))
    tensors = described, _described(scratch), describe(output)
    native.hog_dalal_triggs_cuda(*tensors, *options.native(), stream(images))
    return output


@torch.library.impl(LIBRARY, "hog_dalal_triggs_backward", "CUDA")
def _dalal_triggs_backward_cuda(gradient: torch.Tensor, images: torch.Tensor, *parameters: Any) -> torch.Tensor:
    native, options, images = require_cuda(), BlockOptions(*parameters), _readable(images)
    gradient, result, described = gradient.to(torch.float32).contiguous(), _like(images), _described(images)
    scratch = _workspace(images, native.hog_dalal_triggs_cuda_scratch(described, *options.native(), True))
    tensors = describe(gradient), described, _described(scratch), describe(result)
    native.hog_dalal_triggs_backward_cuda(*tensors, *options.native(), stream(images))
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
