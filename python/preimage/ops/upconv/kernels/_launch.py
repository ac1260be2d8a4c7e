"""What every launcher shares: memory, layouts, checks, and the call itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from preimage.ops.upconv.kernel_configs import tf32_allowed

MOST_ELEMENTS = 2**31 - 1  # the kernels' offsets are int32

_poisoning = False


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Within, every output and partial sum of a kernel starts as NaN: what a kernel leaves unwritten shows."""
    global _poisoning  # noqa: PLW0603
    before, _poisoning = _poisoning, True
    try:
        yield
    finally:
        _poisoning = before


def allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Contiguous memory; all that the kernels write comes from here."""
    if _poisoning:
        return torch.full(shape, float("nan"), dtype=dtype, device=device)
    return torch.empty(shape, dtype=dtype, device=device)


def new_map(like: torch.Tensor, channels: int, height: int, width: int) -> torch.Tensor:
    """(B, C, H, W), channels_last, dtype and device of `like`."""
    shape = (like.shape[0], channels, height, width)
    if like.shape[0] * channels * height * width > MOST_ELEMENTS:
        raise ValueError(f"a map must have at most 2^31 - 1 elements, got {shape}")
    return allocate((shape[0], height, width, channels), like.dtype, like.device).permute(0, 3, 1, 2)


def channels_last(name: str, values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The map with its channels innermost in memory; copies only where they are not."""
    if tuple(values.shape) != shape:
        raise ValueError(f"{name} must be {shape}, got {tuple(values.shape)}")
    if values.numel() > MOST_ELEMENTS:
        raise ValueError(f"a map must have at most 2^31 - 1 elements, got {name} of {shape}")
    return values.contiguous(memory_format=torch.channels_last)


def vector(name: str, values: torch.Tensor, size: int) -> torch.Tensor:
    """As the kernels read it: its values one after the other."""
    if values.shape != (size,):
        raise ValueError(f"{name} must be ({size},), got {tuple(values.shape)}")
    return values.contiguous()


def check_weight(weight: torch.Tensor, in_channels: int, dtype: torch.dtype) -> None:
    if weight.dim() != 4 or weight.shape[0] != in_channels or weight.shape[2:] != (5, 5):
        raise ValueError(f"the weight must be ({in_channels}, Co, 5, 5), got {tuple(weight.shape)}")
    if weight.numel() > MOST_ELEMENTS:
        raise ValueError(f"a weight must have at most 2^31 - 1 elements, got {tuple(weight.shape)}")
    if weight.dtype != dtype:
        raise TypeError(f"maps and weight must be of one dtype, got {dtype} and {weight.dtype}")


def packed(weight: torch.Tensor) -> torch.Tensor:  # [Ci, Co, 5, 5] to [5, 5, Ci, Co]
    """Copies nothing where the memory already lies so."""
    return weight.permute(2, 3, 0, 1).contiguous()


def forward_weight(weight: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """The memory of the weight for a sum over Ci, the stride of Ci and that of Co.

    The tensor cores take both operands of bfloat16 and float16 in either order; of tf32 only with the index that is
    summed over innermost.
    """
    in_channels, out_channels = weight.shape[:2]
    if weight.dtype == torch.float32:
        return weight.permute(2, 3, 1, 0).contiguous(), 1, in_channels
    return packed(weight), out_channels, 1


def precision(dtype: torch.dtype) -> str:
    """How products of float32 are formed: as torch's settings allow cuDNN's convolutions."""
    return "tf32" if dtype == torch.float32 and tf32_allowed() else "ieee"


def pixel_count(maps: torch.Tensor) -> int:
    """B·H·W."""
    return maps.shape[0] * maps.shape[2] * maps.shape[3]


def slope(negative_slope: float | None) -> float:
    """No activation is one of slope 1; the kernels leave it out."""
    return 1.0 if negative_slope is None else float(negative_slope)


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, num_warps: int, num_stages: int, **constants: Any
) -> None:
    """Puts the kernel on the current stream of the arguments' device; an empty grid is nothing to do."""
    if 0 in grid:
        return
    first = arguments[0]
    guard: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if type(first) not in (torch.Tensor, torch.nn.Parameter):
        # Traced. The wrapper is not for real tensors: its way to a launch takes a millisecond.
        kernel = torch.library.wrap_triton(kernel)
    elif first.is_cuda:
        guard = torch.cuda.device(first.device)  # triton launches on the current device, whatever the tensors' is
    with guard:
        kernel[grid](*arguments, **constants, num_warps=num_warps, num_stages=num_stages)
