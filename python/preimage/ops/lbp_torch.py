"""Compute LBP features of tensors: torch ops for CPU and CUDA."""

from __future__ import annotations

from collections.abc import Callable

import torch

from preimage.ops import _native
from preimage.ops._function_transforms import batch_over_images, check_no_tangent
from preimage.ops._native_tensors import as_native, describe, needs_gradient, require_cuda, stream
from preimage.ops._schemas import LIBRARY


def lbp_torch(images: torch.Tensor, cell_size: int, variant: str, dtype: str) -> torch.Tensor:
    """Compute the features of checked images (B, C, H, W), see `preimage.lbp`."""
    _check_no_gradient(images)
    return _lbp_op(images, cell_size, variant).to(getattr(torch, dtype))


def lbp_codes_torch(images: torch.Tensor, variant: str) -> torch.Tensor:
    """Compute the labels of checked images (B, C, H, W), see `preimage.lbp_codes`."""
    _check_no_gradient(images)
    return _codes_op(images, variant)


def _check_no_gradient(images: torch.Tensor) -> None:
    check_no_tangent("lbp", images)
    if needs_gradient(images):
        raise ValueError(
            "images must not require a gradient, because the derivative of LBP is zero almost everywhere: pass "
            "images.detach() or use torch.no_grad()"
        )


@torch.library.impl(LIBRARY, "lbp", "CPU")
def _lbp_cpu(images: torch.Tensor, cell_size: int, variant: str) -> torch.Tensor:
    images = as_native(images)  # keeps a copy alive until the kernel has read it
    described = describe(images)
    batch, _, height, width = described[1]
    output = torch.empty((batch, 58, height // cell_size, width // cell_size), dtype=torch.float32, device="cpu")
    _native.lbp(described, describe(output), cell_size, torch.get_num_threads())
    return output


@torch.library.impl(LIBRARY, "lbp_codes", "CPU")
def _codes_cpu(images: torch.Tensor, variant: str) -> torch.Tensor:
    images = as_native(images)
    described = describe(images)
    batch, _, height, width = described[1]
    output = torch.empty((batch, 1, height, width), dtype=torch.uint8, device="cpu")
    _native.lbp_codes(described, describe(output), torch.get_num_threads())
    return output


@torch.library.impl(LIBRARY, "lbp", "CUDA")
def _lbp_cuda(images: torch.Tensor, cell_size: int, variant: str) -> torch.Tensor:
    native, images = require_cuda(), as_native(images)
    described = describe(images)
    batch, _, height, width = described[1]
    output = images.new_empty((batch, 58, height // cell_size, width // cell_size), dtype=torch.float32)
    native.lbp_cuda(described, describe(output), cell_size, stream(images))
    return output


@torch.library.impl(LIBRARY, "lbp_codes", "CUDA")
def _codes_cuda(images: torch.Tensor, variant: str) -> torch.Tensor:
    native, images = require_cuda(), as_native(images)
    described = describe(images)
    batch, _, height, width = described[1]
    output = images.new_empty((batch, 1, height, width), dtype=torch.uint8)
    native.lbp_codes_cuda(described, describe(output), stream(images))
    return output


_lbp_op: Callable[[torch.Tensor, int, str], torch.Tensor] = torch.ops.preimage.lbp.default
_codes_op: Callable[[torch.Tensor, str], torch.Tensor] = torch.ops.preimage.lbp_codes.default
batch_over_images("lbp")
batch_over_images("lbp_codes")
