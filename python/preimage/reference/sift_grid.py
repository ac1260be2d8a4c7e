"""Sparse keypoints drawn onto a grid of cells: the plain definition."""

from __future__ import annotations

import torch

CHANNELS = 128 + 5


def sift_grid(
    x: torch.Tensor,
    y: torch.Tensor,
    scale: torch.Tensor,
    angle: torch.Tensor,
    descriptors: torch.Tensor,
    offsets: torch.Tensor,
    image_size: tuple[int, int],
    cell: int = 4,
    *,
    seed: int = 0,
    descriptor_scale: float = 1.0,
) -> torch.Tensor:
    """At most one keypoint for every cell of cell × cell pixels; see `preimage.sift_grid` for the channels.

    Args:
        x, y, scale, angle: [N] float32 or float64, as `preimage.Keypoints` has them.
        descriptors: [N, 128], of the same dtype.
        offsets: [B + 1] int64.
        image_size, cell, seed, descriptor_scale: as `preimage.sift_grid`.

    Returns:
        (B, 133, ceil(H / cell), ceil(W / cell)), of the keypoints' dtype.
    """
    height, width = image_size
    rows, columns = -(-height // cell), -(-width // cell)
    batch, count = len(offsets) - 1, len(x)

    # A pixel's square spans half a pixel on either side of its center.
    right, down = x + 0.5, y + 0.5
    inside = (right >= 0) & (right < width) & (down >= 0) & (down < height)
    column, row = (torch.where(inside, place, 0).long() // cell for place in (right, down))

    image = torch.repeat_interleave(torch.arange(batch), offsets.diff(), output_size=count)
    place = (image * rows + row) * columns + column
    key = draw_key(torch.arange(count) - offsets[image], seed)
    best = torch.zeros(batch * rows * columns, dtype=torch.int64)
    best = best.scatter_reduce(0, place[inside], key[inside], "amax", include_self=False)
    drawn = inside & (best[place] == key)  # one a cell: no two keypoints of an image have the same key

    values = torch.cat(
        (
            descriptors * descriptor_scale,
            torch.stack((right - column * cell, down - row * cell, angle.sin(), angle.cos(), scale.log()), dim=1),
        ),
        dim=1,
    )
    grid = torch.zeros(batch * rows * columns, CHANNELS, dtype=x.dtype)
    grid[place[drawn]] = values[drawn]
    return grid.view(batch, rows, columns, CHANNELS).permute(0, 3, 1, 2).contiguous()


def draw_key(index: torch.Tensor, seed: int) -> torch.Tensor:
    """Output number `index` ([N] int64, from 0) of the generator splitmix64 started at `seed`, less 2⁶³.

    splitmix64 computes in unsigned 64-bit integers, of which int64 has the same bits; what is taken off makes signed
    keys rise as the unsigned ones do. It maps different indices to different keys.
    """
    state = _signed(seed) + (index + 1) * _signed(0x9E3779B97F4A7C15)
    state = (state ^ _shifted(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shifted(state, 27)) * _signed(0x94D049BB133111EB)
    return state ^ _shifted(state, 31) ^ _signed(1 << 63)


def _shifted(value: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right, zeros coming in."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 of the same 64 bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value
