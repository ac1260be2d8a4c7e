"""Check images and parameters of descriptors, and describe NumPy arrays to the native module. Does not import torch."""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

# Features have the container of the images, torch.Tensor or numpy.ndarray.
Images = TypeVar("Images", "torch.Tensor", "npt.NDArray[Any]")
DType: TypeAlias = "str | np.dtype[Any] | type[np.generic] | torch.dtype"

# (address, shape, strides in bytes, dtype, device)
Description = tuple[int, tuple[int, ...], tuple[int, ...], str, str]

_NAMES = {
    np.dtype(name): name for name in ("uint8", "float16", "float32", "float64")
}  # np.dtype.name takes microseconds
_TYPES = ("uint8", "float16", "bfloat16", "float32", "float64")
_NATIVE_DTYPES = (np.dtype(np.uint8), np.dtype(np.float32))  # in native byte order


def is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Return whether a value is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def check_images(images: torch.Tensor | npt.NDArray[Any]) -> tuple[int, int]:
    """Return (height, width) of images (..., C, H, W) or (H, W).

    Raises:
        TypeError: `images` is neither a tensor nor an array, or its dtype is not supported.
        ValueError: The shape is invalid, or the device is not supported.
    """
    if not is_tensor(images) and not isinstance(images, np.ndarray):
        raise TypeError(f"images must be a torch.Tensor or a numpy.ndarray, got {type(images).__name__}")
    name = dtype_name(images.dtype)
    if name not in _TYPES:
        raise TypeError(f"images must be uint8, float16, bfloat16, float32 or float64, got {name}")
    if is_tensor(images) and images.device.type not in ("cpu", "cuda"):
        raise ValueError(f"images must be on the CPU or a CUDA device, got {images.device}: pass images.cpu()")
    return check_shape(images.shape)


def check_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (height, width) of images of a shape (..., C, H, W) or (H, W); raise ``ValueError`` for other shapes."""
    rank = len(shape)
    if rank < 2:
        raise ValueError(f"images must be (H, W), (C, H, W) or (B, C, H, W), got shape {tuple(shape)}")
    if rank > 2 and shape[-3] not in (1, 3):
        hint = "; the channels must come before rows and columns" if shape[-1] in (1, 3) else ""
        raise ValueError(f"images must have 1 or 3 channels, got {shape[-3]} in shape {tuple(shape)}{hint}")
    height, width = shape[-2], shape[-1]
    if height < 1 or width < 1:
        raise ValueError(f"images must not be empty, got {height} x {width} pixels")
    return height, width


def as_batch(images: Any) -> Any:
    """Return images (..., C, H, W) or (H, W) as (B, C, H, W)."""
    if images.ndim == 4:
        return images
    planes = tuple(images.shape[-3:]) if images.ndim > 2 else (1, *images.shape)
    return images.reshape((math.prod(images.shape[:-3]), *planes))


def like_images(result: Any, images: Images) -> Images:
    """Reshape a result (B, C, h, w) for `as_batch` of images to (..., C, h, w), with their leading dimensions."""
    shaped: Images = result if images.ndim == 4 else result.reshape((*images.shape[:-3], *result.shape[1:]))
    return shaped


def dtype_name(dtype: Any) -> str:
    """Return the name of a dtype of torch or NumPy, such as ``"float16"``. Strings are returned unchanged."""
    if isinstance(dtype, str):
        return dtype
    if isinstance(dtype, np.dtype):
        return _NAMES.get(dtype) or dtype.name
    return str(dtype).removeprefix("torch.") if str(dtype).startswith("torch.") else np.dtype(dtype).name


def check_dtype(dtype: Any, known: tuple[str, ...], images: object) -> str:
    """Return the name of a dtype of features; raise ``ValueError`` unless it is supported.

    Args:
        dtype: Name or dtype of torch or NumPy.
        known: Names of the supported dtypes. ``"bfloat16"`` is supported for tensors only.
        images: Images that the features are computed from.
    """
    name = dtype_name(dtype)
    possible = known if is_tensor(images) else tuple(one for one in known if one != "bfloat16")
    if name not in possible:
        raise ValueError(f"dtype must be one of {', '.join(possible)}, got {dtype!r}")
    return name


def check_positive_int(name: str, value: int, unit: str = "pixel") -> None:
    """Raise ``TypeError`` unless `value` is an int, and ``ValueError`` unless it is at least 1."""
    if type(value) is not int:
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1 {unit}, got {value}")


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def readable(images: npt.NDArray[Any], *, doubles: bool = False) -> npt.NDArray[Any]:
    """Return the array if the kernels can read it, otherwise a copy of a supported dtype.

    Args:
        images: Array of a dtype that `check_images` accepts.
        doubles: Whether the kernel reads float64; others get float32.
    """
    double = doubles and images.dtype.newbyteorder("=") == np.float64
    if (images.dtype in _NATIVE_DTYPES or (double and images.dtype.isnative)) and images.flags.aligned:
        return images
    if images.dtype == np.uint8:
        return images.copy()
    return images.astype(np.float64 if double else np.float32)


def describe_array(array: npt.NDArray[Any]) -> Description:
    """Return the description of an array of at most four axes for the native module, with leading axes added."""
    missing = 4 - array.ndim
    address = array.__array_interface__["data"][0]
    return address, (1,) * missing + array.shape, (0,) * missing + array.strides, dtype_name(array.dtype), "cpu"


def describe_output(array: npt.NDArray[Any]) -> Description:
    """Return the description of an output array; raise ``ValueError`` unless it is writeable and in native order."""
    if not array.flags.writeable or not array.dtype.isnative:
        raise ValueError(f"features must be a writeable array in native byte order, got dtype {array.dtype.str}")
    return describe_array(array)


def cpu_threads() -> int:
    """Return the number of threads for NumPy arrays: ``OMP_NUM_THREADS``, or the CPUs available to the process.

    For tensors the number is `torch.get_num_threads()`.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
