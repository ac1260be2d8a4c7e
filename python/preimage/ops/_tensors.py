"""Description of tensors for the native module, and working memory for its CUDA kernels."""

from __future__ import annotations

from typing import Any

import torch

from preimage.ops import _native
from preimage.ops._images import Description

_NATIVE_TYPES = {torch.uint8: "uint8", torch.float32: "float32"}  # what the kernels read themselves


def needs_gradient(images: torch.Tensor) -> bool:
    """Return whether a gradient is to flow back to these images."""
    return images.requires_grad and torch.is_grad_enabled()


def as_native(images: torch.Tensor) -> torch.Tensor:
    """Return the tensor itself where the kernels read its dtype, else a float32 copy."""
    return images if images.dtype in _NATIVE_TYPES else images.to(torch.float32)


def describe(tensor: torch.Tensor, dtype: str | None = None) -> Description:
    """Describe a tensor of at most four axes to the native module, missing axes first; `dtype` for other types."""
    size = tensor.element_size()
    missing = 4 - tensor.dim()
    shape = (1,) * missing + tuple(tensor.shape)
    strides = (0,) * missing + tuple(stride * size for stride in tensor.stride())
    device = "cpu" if tensor.is_cpu else f"cuda:{tensor.device.index}"
    return tensor.data_ptr(), shape, strides, dtype or _NATIVE_TYPES[tensor.dtype], device


def stream(tensor: torch.Tensor) -> int:
    """Return the address of the current CUDA stream on the tensor's device."""
    address: int = torch.cuda.current_stream(tensor.device).cuda_stream
    return address


def with_cuda() -> Any:
    """Return the native module, if it has CUDA kernels; ``RuntimeError`` if not."""
    if not hasattr(_native, "hog_cuda"):
        raise RuntimeError(
            "this build of preimage has no CUDA kernels: build it where nvcc is found (`preimage doctor` tells), "
            "or pass images.cpu()"
        )
    return _native


def working_memory(images: torch.Tensor, floats: int) -> torch.Tensor:
    """Return uninitialized float32 on the images' device. The allocator keeps it for the stream that uses it."""
    return torch.empty(max(floats, 1), dtype=torch.float32, device=images.device)
