"""Rasterize keypoints in tensors: the torch op."""

from __future__ import annotations

from collections.abc import Callable

import torch

from preimage.keypoints import COLORS, GRID_CHANNELS, Keypoints
from preimage.ops import _native
from preimage.ops._native_tensors import describe
from preimage.ops._schemas import LIBRARY


def sift_grid_torch(
    keypoints: Keypoints, image_size: tuple[int, int], cell_size: int, seed: int, descriptor_scale: float, dtype: str
) -> torch.Tensor:
    """Compute the grid (B, 133, h, w), or 136 channels with colors, of checked keypoints, see `preimage.sift_grid`."""
    fields = keypoints.x, keypoints.y, keypoints.scale, keypoints.angle, keypoints.descriptors, keypoints.offsets
    grid = _op(*fields, image_size, cell_size, seed, descriptor_scale, keypoints.colors)
    return grid.to(getattr(torch, dtype))


@torch.library.impl(LIBRARY, "sift_grid", "CPU")
def _sift_grid_cpu(
    x: torch.Tensor,
    y: torch.Tensor,
    scale: torch.Tensor,
    angle: torch.Tensor,
    descriptors: torch.Tensor,
    offsets: torch.Tensor,
    image_size: tuple[int, int],
    cell_size: int,
    seed: int,
    descriptor_scale: float,
    colors: torch.Tensor | None = None,
) -> torch.Tensor:
    x, y, scale, angle = x.contiguous(), y.contiguous(), scale.contiguous(), angle.contiguous()
    descriptors = descriptors.contiguous()
    colors = None if colors is None else colors.contiguous()
    described_colors = () if colors is None else (describe(colors),)
    height, width = image_size
    channels = GRID_CHANNELS if colors is None else GRID_CHANNELS + COLORS
    shape = len(offsets) - 1, channels, -(-height // cell_size), -(-width // cell_size)
    output = torch.empty(shape, dtype=torch.float32, device="cpu")
    _native.sift_grid(
        describe(x),
        describe(y),
        describe(scale),
        describe(angle),
        describe(descriptors),
        offsets.tolist(),
        describe(output),
        (height, width),
        cell_size,
        seed,
        descriptor_scale,
        torch.get_num_threads(),
        *described_colors,
    )
    return output


_op: Callable[..., torch.Tensor] = torch.ops.preimage.sift_grid.default
