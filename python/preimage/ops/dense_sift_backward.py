"""Dense SIFT's gradient: the backward op on the CPU, and what ties it to autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from preimage.ops import _native
from preimage.ops._derivatives import last_derivative
from preimage.ops._library import LIBRARY
from preimage.ops._sizes import Bounds
from preimage.ops._tensors import as_native, describe

Pair = tuple[torch.Tensor, torch.Tensor]


def full_bounds(images: torch.Tensor, bounds: Bounds | None) -> Bounds:
    """The bounds, or those of the whole image."""
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


class DenseSift(torch.autograd.Function):
    """The op in float32 with its gradient; apart from it, because a call without one shall not pay for it."""

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
        ctx.save_for_backward(images)
        ctx.parameters = (step, bin_size, window, window_size, bounds)
        return _op(images, *ctx.parameters, torch.float32)

    @staticmethod
    def backward(
        ctx: Any, grad_features: torch.Tensor, grad_norms: torch.Tensor
    ) -> tuple[torch.Tensor, None, None, None, None, None]:
        (images,) = ctx.saved_tensors
        result = _backward(grad_features, grad_norms, images, *ctx.parameters).to(images.dtype)
        return last_derivative("dense_sift", result, grad_features, grad_norms, images), None, None, None, None, None
