"""Describe torch tensors to the native module, and allocate workspaces for its CUDA kernels."""

from __future__ import annotations

from typing import Any

import torch

from preimage.ops import _native
from preimage.ops._images import Description

_NATIVE_TYPES = {torch.uint8: "uint8", torch.float32: "float32"}  # dtypes that all kernels read


def needs_gradient(images: torch.Tensor) -> bool:
    """Return whether the gradient of these images is required."""
    if not torch.is_grad_enabled():
        return False
    if torch._C._are_functorch_transforms_active() and torch.compiler.is_compiling():
        torch._dynamo.graph_break()  # inside a transform, the compiler treats images as constants
    return images.requires_grad


def as_native(images: torch.Tensor) -> torch.Tensor:
    """Return the tensor if the kernels can read its dtype, otherwise a float32 copy."""
    return images if images.dtype in _NATIVE_TYPES else images.to(torch.float32)


def describe(tensor: torch.Tensor, dtype: str | None = None) -> Description:
    """Return the description of a tensor of at most four axes for the native module, with leading axes added.

    Args:
        tensor: Tensor of uint8 or float32, or of any dtype if `dtype` is given.
        dtype: Name of the dtype.
    """
    size = tensor.element_size()
    missing = 4 - tensor.dim()
    shape = (1,) * missing + tuple(tensor.shape)
    strides = (0,) * missing + tuple(stride * size for stride in tensor.stride())
    device = "cpu" if tensor.is_cpu else f"cuda:{tensor.device.index}"
    return tensor.data_ptr(), shape, strides, dtype or _NATIVE_TYPES[tensor.dtype], device


def stream(tensor: torch.Tensor) -> int:
    """Return the handle of the current CUDA stream of the tensor's device."""
    address: int = torch.cuda.current_stream(tensor.device).cuda_stream
    return address


def require_cuda() -> Any:
    """Return the native module; raise ``RuntimeError`` if it was built without CUDA kernels."""
    if not hasattr(_native, "hog_cuda"):
        raise RuntimeError(
            "this build of preimage has no CUDA kernels: build it with nvcc installed (see `preimage doctor`), or pass "
            "images.cpu()"
        )
    return _native


def workspace(images: torch.Tensor, floats: int) -> torch.Tensor:
    """Return uninitialized float32 memory on the images' device, allocated for the current stream."""
    return torch.empty(max(floats, 1), dtype=torch.float32, device=images.device)
