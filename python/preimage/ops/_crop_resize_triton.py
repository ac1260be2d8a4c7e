"""Triton kernel of `preimage.ops.crop_resize`: one thread computes a pixel from TAPS × TAPS pixels of the image."""
# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 128
_WARPS = 4


@triton.jit
def _weight(at, begin, scale, interpolated):
    """Return the weight of pixel `at` in a result that covers `begin` to `begin + scale`.

    The cubic polynomials are those of `crop_resize_torch`, with the parameter -0.75.
    """
    away = tl.abs(begin + 0.5 * scale - 0.5 - at)
    near = (1.25 * away - 2.25) * away * away + 1.0
    far = ((-0.75 * away + 3.75) * away - 6.0) * away + 3.0
    cubic = tl.where(away < 1.0, near, tl.where(away < 2.0, far, 0.0))
    overlap = tl.minimum(at + 1.0, begin + scale) - tl.maximum(at, begin)
    return tl.where(interpolated > 0.0, cubic, tl.maximum(overlap, 0.0) / scale)


@triton.jit
def _rounded(value):
    return tl.minimum(tl.maximum(tl.floor(value + 0.5), 0.0), 255.0).to(tl.uint8)


@triton.jit
def _crop_resize(
    out,
    pixels,
    offsets,
    sizes,
    crops,
    SIZE: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    number = tl.program_id(1).to(tl.int64)
    values = crops + 7 * number
    image = tl.load(values).to(tl.int32)
    top, left = tl.load(values + 1), tl.load(values + 2)
    height, width = tl.load(values + 3), tl.load(values + 4)
    mirrored, interpolated = tl.load(values + 5), tl.load(values + 6)
    rows, columns = tl.load(sizes + 2 * image), tl.load(sizes + 2 * image + 1)
    source = pixels + tl.load(offsets + image)

    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < SIZE * SIZE
    column = pixel % SIZE
    column = tl.where(mirrored > 0.0, SIZE - 1 - column, column)
    scale_y, scale_x = height / SIZE, width / SIZE
    begin_y = top + (pixel // SIZE).to(tl.float32) * scale_y
    begin_x = left + column.to(tl.float32) * scale_x
    first_y = tl.floor(tl.where(interpolated > 0.0, begin_y + 0.5 * scale_y - 1.5, begin_y))
    first_x = tl.floor(tl.where(interpolated > 0.0, begin_x + 0.5 * scale_x - 1.5, begin_x))
    low_y, low_x = tl.floor(top), tl.floor(left)
    high_y = tl.minimum(tl.ceil(top + height), rows.to(tl.float32)) - 1.0
    high_x = tl.minimum(tl.ceil(left + width), columns.to(tl.float32)) - 1.0

    red = tl.zeros((BLOCK,), tl.float32)
    green = tl.zeros((BLOCK,), tl.float32)
    blue = tl.zeros((BLOCK,), tl.float32)
    for i in tl.static_range(TAPS):
        y = tl.minimum(tl.maximum(first_y + i, low_y), high_y).to(tl.int32)
        weight_y = _weight(first_y + i, begin_y, scale_y, interpolated)
        for j in tl.static_range(TAPS):
            x = tl.minimum(tl.maximum(first_x + j, low_x), high_x).to(tl.int32)
            weight = weight_y * _weight(first_x + j, begin_x, scale_x, interpolated)
            at = source + (y * columns + x) * 3
            red += weight * tl.load(at, inside, other=0).to(tl.float32)
            green += weight * tl.load(at + 1, inside, other=0).to(tl.float32)
            blue += weight * tl.load(at + 2, inside, other=0).to(tl.float32)
    at = out + (number * (SIZE * SIZE) + pixel) * 3
    tl.store(at, _rounded(red), inside)
    tl.store(at + 1, _rounded(green), inside)
    tl.store(at + 2, _rounded(blue), inside)


def crop_resize(
    pixels: torch.Tensor, offsets: torch.Tensor, sizes: torch.Tensor, crops: torch.Tensor, size: int, taps: int
) -> torch.Tensor:
    """Run `preimage.ops.crop_resize.crop_resize` on the current stream of the tensors' device."""
    out = torch.empty(len(crops), size, size, 3, dtype=torch.uint8, device=pixels.device)
    grid = (triton.cdiv(size * size, _BLOCK), len(crops))
    with torch.cuda.device_of(pixels):  # Triton launches on the current device
        _crop_resize[grid](out, pixels, offsets, sizes, crops, SIZE=size, TAPS=taps, BLOCK=_BLOCK, num_warps=_WARPS)
    return out.permute(0, 3, 1, 2)
