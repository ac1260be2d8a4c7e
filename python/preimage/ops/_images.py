"""What every descriptor asks of its images, and how memory is described to the native module."""

from __future__ import annotations

import os
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from preimage.ops import _native

Images = torch.Tensor | npt.NDArray[Any]

# (address, shape, strides in bytes, dtype, device)
Description = tuple[int, tuple[int, ...], tuple[int, ...], str, str]

# What the kernels read themselves, and what is turned into float32 first.
_NATIVE_TYPES = {torch.uint8: "uint8", torch.float32: "float32"}
_CONVERTED_TYPES = {torch.float16, torch.bfloat16, torch.float64}
_NATIVE_ARRAYS = {np.dtype(np.uint8): "uint8", np.dtype(np.float32): "float32"}  # in this machine's byte order


def check_tensor(images: torch.Tensor) -> None:
    """``TypeError`` or ``ValueError`` unless the kernels can take a tensor of this dtype on this device."""
    if images.dtype not in _NATIVE_TYPES and images.dtype not in _CONVERTED_TYPES:
        _wrong_type(str(images.dtype))
    if images.device.type not in ("cpu", "cuda"):
        raise ValueError(f"images must be on the CPU or a CUDA device, got {images.device}: pass images.cpu()")


def needs_gradient(images: torch.Tensor) -> bool:
    """Is a gradient to flow back to these images?"""
    return images.requires_grad and torch.is_grad_enabled()


def readable(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself where the kernels can read it, else a copy that they can; ``TypeError`` for other dtypes."""
    if images.dtype in _NATIVE_ARRAYS and images.flags.aligned:
        return images
    if images.dtype == np.uint8:
        return images.copy()
    if images.dtype.kind != "f" or images.dtype.itemsize > 8:
        _wrong_type(images.dtype.name)
    return images.astype(np.float32)


def wrong_container(images: object) -> TypeError:
    """The error for what is neither a tensor nor an array."""
    return TypeError(f"images must be a torch.Tensor or a numpy.ndarray, got {type(images).__name__}")


def _wrong_type(name: str) -> NoReturn:
    raise TypeError(f"images must be uint8, float16, bfloat16, float32 or float64, got {name}")


def check_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of images (H, W), (C, H, W) or (B, C, H, W); ``ValueError`` for anything else."""
    rank = len(shape)
    if not 2 <= rank <= 4:
        raise ValueError(f"images must be (H, W), (C, H, W) or (B, C, H, W), got shape {tuple(shape)}")
    if rank > 2 and shape[-3] not in (1, 3):
        hint = "; channels come before rows and columns, not last" if shape[-1] in (1, 3) else ""
        raise ValueError(f"images must have 1 or 3 channels, got {shape[-3]} in shape {tuple(shape)}{hint}")
    height, width = shape[-2], shape[-1]
    if height < 1 or width < 1:
        raise ValueError(f"images must not be empty, got {height} x {width} pixels")
    return height, width


def check_whole(name: str, value: int, unit: str = "pixel") -> None:
    """``TypeError`` unless `value` is an int, ``ValueError`` unless it is at least 1."""
    if type(value) is not int:
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1 {unit}, got {value}")


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """``ValueError`` unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def check_dtype(dtype: torch.dtype, known: tuple[torch.dtype, ...]) -> None:
    """``ValueError`` unless features can be given as `dtype`."""
    if dtype not in known:
        raise ValueError(f"dtype must be one of {', '.join(map(str, known))}, got {dtype!r}")


def as_native(images: torch.Tensor) -> torch.Tensor:
    """The tensor itself where the kernels read its dtype, else a float32 copy."""
    return images if images.dtype in _NATIVE_TYPES else images.to(torch.float32)


def describe(tensor: torch.Tensor, dtype: str | None = None) -> Description:
    """A tensor of at most four axes as the native module wants it, missing axes first; `dtype` for other types."""
    size = tensor.element_size()
    missing = 4 - tensor.dim()
    shape = (1,) * missing + tuple(tensor.shape)
    strides = (0,) * missing + tuple(stride * size for stride in tensor.stride())
    device = "cpu" if tensor.is_cpu else f"cuda:{tensor.device.index}"
    return tensor.data_ptr(), shape, strides, dtype or _NATIVE_TYPES[tensor.dtype], device


def describe_array(array: npt.NDArray[Any]) -> Description:
    """The same for an array that `readable` returned."""
    missing = 4 - array.ndim
    address = array.__array_interface__["data"][0]
    shape = (1,) * missing + array.shape
    return address, shape, (0,) * missing + array.strides, _NATIVE_ARRAYS[array.dtype], "cpu"


def instruction_set() -> str:
    """The one that PREIMAGE_ISA forces, or "" for the best."""
    return os.environ.get("PREIMAGE_ISA", "")


def stream(tensor: torch.Tensor) -> int:
    """The address of the current CUDA stream on the tensor's device."""
    address: int = torch.cuda.current_stream(tensor.device).cuda_stream
    return address


def with_cuda() -> Any:
    """The native module, if it has CUDA kernels; ``RuntimeError`` if not."""
    if not hasattr(_native, "hog_cuda"):
        raise RuntimeError(
            "this build of preimage has no CUDA kernels: build it where nvcc is found (`preimage doctor` tells), "
            "or pass images.cpu()"
        )
    return _native


def working_memory(images: torch.Tensor, floats: int) -> torch.Tensor:
    """Uninitialised float32 on the images' device. The allocator keeps it for the stream that uses it."""
    return torch.empty(max(floats, 1), dtype=torch.float32, device=images.device)
