"""Check arguments, allocate outputs, and launch kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from preimage.ops.upconv.kernel_configs import MOST_ELEMENTS, tf32_allowed

_poisoning = False


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fill all outputs and partial sums with NaN before kernels run, which reveals elements that are not written."""
    global _poisoning  # noqa: PLW0603
    before, _poisoning = _poisoning, True
    try:
        yield
    finally:
        _poisoning = before


def allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Allocate contiguous memory for outputs of kernels."""
    if _poisoning:
        return torch.full(shape, float("nan"), dtype=dtype, device=device)
    return torch.empty(shape, dtype=dtype, device=device)


def new_map(like: torch.Tensor, channels: int, height: int, width: int) -> torch.Tensor:
    """Allocate maps (B, C, H, W) in channels_last, with the batch size, dtype and device of `like`."""
    shape = (like.shape[0], channels, height, width)
    if like.shape[0] * channels * height * width > MOST_ELEMENTS:
        raise ValueError(f"a map must have at most 2^31 - 1 elements, got {shape}")
    return allocate((shape[0], height, width, channels), like.dtype, like.device).permute(0, 3, 1, 2)


def channels_last(name: str, values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return maps in channels_last memory format, after checking shape and size."""
    if tuple(values.shape) != shape:
        raise ValueError(f"{name} must be {shape}, got {tuple(values.shape)}")
    if values.numel() > MOST_ELEMENTS:
        raise ValueError(f"a map must have at most 2^31 - 1 elements, got {name} of {shape}")
    return values.contiguous(memory_format=torch.channels_last)


def vector(name: str, values: torch.Tensor, size: int) -> torch.Tensor:
    """Return a contiguous vector, after checking its size."""
    if values.shape != (size,):
        raise ValueError(f"{name} must be ({size},), got {tuple(values.shape)}")
    return values.contiguous()


def checked_weight(weight: torch.Tensor, in_channels: int, dtype: torch.dtype) -> torch.Tensor:
    """Return a weight (Ci, Co, 5, 5) in channels_last memory format, after checking shape, size and dtype."""
    if weight.dim() != 4 or weight.shape[0] != in_channels or weight.shape[2:] != (5, 5):
        raise ValueError(f"the weight must be ({in_channels}, Co, 5, 5), got {tuple(weight.shape)}")
    if weight.numel() > MOST_ELEMENTS:
        raise ValueError(f"a weight must have at most 2^31 - 1 elements, got {tuple(weight.shape)}")
    if weight.dtype != dtype:
        raise TypeError(f"maps and weight must have one dtype, got {dtype} and {weight.dtype}")
    return weight.contiguous(memory_format=torch.channels_last)


def forward_weight(weight: torch.Tensor) -> tuple[torch.Tensor, int, int, int]:
    """Return the weight in the order for a sum over Ci, and the strides of Ci, Co and the tap.

    Tensor cores accept bfloat16 and float16 operands in either order, but TF32 only with the summed index innermost.
    """
    in_channels, out_channels = weight.shape[:2]
    if weight.dtype == torch.float32:
        turned = weight.transpose(0, 1).contiguous(memory_format=torch.channels_last)
        return turned, 1, 25 * in_channels, in_channels
    return weight, 25 * out_channels, 1, out_channels


def precision(dtype: torch.dtype) -> str:
    """Return the precision of float32 products that torch's settings allow for cuDNN."""
    return "tf32" if dtype == torch.float32 and tf32_allowed() else "ieee"


def pixel_count(maps: torch.Tensor) -> int:
    """Return B · H · W."""
    return maps.shape[0] * maps.shape[2] * maps.shape[3]


def slope(negative_slope: float | None) -> float:
    """Return the slope for the kernels, which skip an activation of slope 1."""
    return 1.0 if negative_slope is None else float(negative_slope)


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, num_warps: int, num_stages: int, **constants: Any
) -> None:
    """Launch a kernel on the current stream of the arguments' device, unless the grid is empty."""
    if 0 in grid:
        return
    first = arguments[0]
    guard: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if type(first) not in (torch.Tensor, torch.nn.Parameter):
        # Traced. The wrapper is not used for real tensors, because it takes a millisecond per launch.
        kernel = torch.library.wrap_triton(kernel)
    elif first.is_cuda:
        guard = torch.cuda.device(first.device)  # Triton launches on the current device
    with guard:
        kernel[grid](*arguments, **constants, num_warps=num_warps, num_stages=num_stages)
