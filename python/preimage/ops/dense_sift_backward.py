"""Compute the gradient of dense SIFT: the backward op for the CPU, and the autograd function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from preimage.ops import _native
from preimage.ops._function_transforms import batch_over_images, save_images, transformable
from preimage.ops._native_tensors import as_native, describe
from preimage.ops._once_differentiable import once_differentiable
from preimage.ops._output_sizes import Bounds
from preimage.ops._schemas import LIBRARY

Pair = tuple[torch.Tensor, torch.Tensor]


def full_bounds(images: torch.Tensor, bounds: Bounds | None) -> Bounds:
    """Return the bounds, which are those of the whole image for ``None``."""
    return (0, 0, images.shape[-2] - 1, images.shape[-1] - 1) if bounds is None else bounds


@torch.library.impl(LIBRARY, "dense_sift_backward", "CPU")
def _dense_sift_backward_cpu(
    grad_features: torch.Tensor,
    grad_norms: torch.Tensor,
    images: torch.Tensor,
    step: int,
    bin_size: int,
    window: str,
    window_size: float,
    bounds: Bounds | None,
) -> torch.Tensor:
    images = as_native(images)
    gradients = grad_features.to(torch.float32).contiguous(), grad_norms.to(torch.float32).contiguous()
    result = torch.empty(images.shape, dtype=torch.float32, device="cpu")
    _native.dense_sift_backward(
        describe(gradients[0]),
        describe(gradients[1]),
        describe(images),
        describe(result),
        step,
        bin_size,
        window,
        window_size,
        full_bounds(images, bounds),
        torch.get_num_threads(),
    )
    return result


_op: Callable[..., Pair] = torch.ops.preimage.dense_sift.default
_backward: Callable[..., torch.Tensor] = torch.ops.preimage.dense_sift_backward.default
batch_over_images("dense_sift")
batch_over_images("dense_sift_backward", gradients=2)


class DenseSift(torch.autograd.Function):
    """Autograd function of the op in float32, used only if a gradient is required, because it adds overhead."""

    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        step: int,
        bin_size: int,
        window: str,
        window_size: float,
        bounds: Bounds | None,
    ) -> Pair:
        save_images(ctx, images, step, bin_size, window, window_size, bounds)
        return _op(images, step, bin_size, window, window_size, bounds, torch.float32)

    @staticmethod
    def backward(
        ctx: Any, grad_features: torch.Tensor, grad_norms: torch.Tensor
    ) -> tuple[torch.Tensor, None, None, None, None, None]:
        (images,) = ctx.saved_tensors
        result = _backward(grad_features, grad_norms, images, *ctx.parameters).to(images.dtype)
        return (
            once_differentiable("dense_sift", result, grad_features, grad_norms, images),
            None,
            None,
            None,
            None,
            None,
        )


TransformableDenseSift = transformable(DenseSift, lambda *inputs: _op(*inputs, torch.float32))
