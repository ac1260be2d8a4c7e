"""Reference definition of the rasterization of sparse keypoints onto a grid of cells."""

from __future__ import annotations

import torch

CHANNELS = 128 + 5
GRAY = 0.5


def sift_grid(
    x: torch.Tensor,  # [N] float32 or float64, also the following
    y: torch.Tensor,  # [N]
    scale: torch.Tensor,  # [N]
    angle: torch.Tensor,  # [N]
    descriptors: torch.Tensor,  # [N, 128]
    offsets: torch.Tensor,  # [B + 1] int64
    image_size: tuple[int, int],
    cell_size: int = 4,
    *,
    seed: int = 0,
    descriptor_scale: float = 1.0,
    colors: torch.Tensor | None = None,  # [N, 3] in [0, 1] or NaN
) -> torch.Tensor:  # [B, 133 or with colors 136, ⌈H / cell_size⌉, ⌈W / cell_size⌉], dtype of x
    """Rasterize keypoints onto a grid, with at most one keypoint in each cell of cell_size × cell_size pixels.

    The first arguments are the fields of `preimage.Keypoints`; channels and other arguments are those of
    `preimage.sift_grid`.
    """
    height, width = image_size
    rows, columns = -(-height // cell_size), -(-width // cell_size)
    batch, count = len(offsets) - 1, len(x)

    # A pixel extends half a pixel to either side of its center.
    right, down = x + 0.5, y + 0.5
    inside = (right >= 0) & (right < width) & (down >= 0) & (down < height)
    column, row = (torch.where(inside, position, 0).long() // cell_size for position in (right, down))

    image = torch.repeat_interleave(torch.arange(batch), offsets.diff(), output_size=count)
    index = (image * rows + row) * columns + column
    key = draw_key(torch.arange(count) - offsets[image], seed)
    best = torch.zeros(batch * rows * columns, dtype=torch.int64)
    best = best.scatter_reduce(0, index[inside], key[inside], "amax", include_self=False)
    drawn = inside & (best[index] == key)  # one per cell, because the keys of an image are distinct

    values = torch.cat(
        (
            descriptors * descriptor_scale,
            torch.stack(
                (right - column * cell_size, down - row * cell_size, angle.sin(), angle.cos(), scale.log()), dim=1
            ),
        ),
        dim=1,
    )
    if colors is not None:
        unknown = colors.isnan().any(dim=1, keepdim=True)
        values = torch.cat((values, torch.where(unknown, 0, colors - GRAY)), dim=1)
    grid = torch.zeros(batch * rows * columns, values.shape[1], dtype=x.dtype)
    grid[index[drawn]] = values[drawn]
    return grid.view(batch, rows, columns, -1).permute(0, 3, 1, 2).contiguous()


def draw_key(
    index: torch.Tensor,  # [N] int64
    seed: int,
) -> torch.Tensor:  # [N] int64
    """Return output number `index` (from 0) of splitmix64 with the initial state `seed`, minus 2⁶³.

    splitmix64 (Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014) uses unsigned 64-bit
    integers. int64 has the same bits, and subtracting 2⁶³ preserves the order. Different indices have different keys.
    """
    state = _signed(seed) + (index + 1) * _signed(0x9E3779B97F4A7C15)
    state = (state ^ _shifted(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shifted(state, 27)) * _signed(0x94D049BB133111EB)
    return state ^ _shifted(state, 31) ^ _signed(1 << 63)


def _shifted(value: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift right, filling with zeros."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """Return the signed integer with the same 64 bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value
