"""Cut crops out of images in one buffer, resize them as OpenCV does, and mirror them."""

from __future__ import annotations

import math

import torch

from preimage.ops._triton import has_triton

NUMBERS = 7  # columns of `crops`
_A = -0.75  # parameter of OpenCV's bicubic kernel


def crop_resize(
    pixels: torch.Tensor,  # [P] uint8
    offsets: torch.Tensor,  # [N] int64
    sizes: torch.Tensor,  # [N, 2] int32
    crops: torch.Tensor,  # [B, 7] float32
    size: int,
    max_shrink: float,
) -> torch.Tensor:  # [B, 3, size, size] uint8, channels last
    """Return crops of images, resized to squares and mirrored where wanted, without synchronization with the device.

    A crop that is larger than the result is averaged over areas (OpenCV's INTER_AREA), and a smaller one interpolated
    by cubic polynomials within the crop (INTER_CUBIC). OpenCV rounds intermediate results, so that a value may differ
    by 1 from its result.

    Args:
        pixels: The images, each (H, W, 3), one after the other.
        offsets: Index of each image's first element in `pixels`.
        sizes: (H, W) of each image.
        crops: Index of the image; top, left, height and width of the crop in pixels, which may be fractions; whether it
            is mirrored; whether it is interpolated instead of averaged (0 or 1). They are not checked: a crop beyond
            its image reads other memory.
        size: Side of the results in pixels.
        max_shrink: Maximum height and width of a crop divided by `size`. It determines how many pixels are read.

    Raises:
        ValueError: A tensor is not contiguous, or its shape or dtype is wrong.
    """
    for name, tensor, shape, dtype in (
        ("pixels", pixels, (len(pixels),), torch.uint8),
        ("offsets", offsets, (len(offsets),), torch.int64),
        ("sizes", sizes, (len(offsets), 2), torch.int32),
        ("crops", crops, (len(crops), NUMBERS), torch.float32),
    ):
        if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_contiguous():
            raise ValueError(
                f"{name} must be contiguous, of shape {shape} and {dtype}, got {tuple(tensor.shape)} {tensor.dtype}"
            )
    taps = max(4, math.ceil(max_shrink) + 1)
    if pixels.is_cuda and has_triton():
        from preimage.ops import _crop_resize_triton  # Triton is not available on every system

        return _crop_resize_triton.crop_resize(pixels, offsets, sizes, crops, size, taps)
    return crop_resize_torch(pixels, offsets, sizes, crops, size, taps)


def crop_resize_torch(
    pixels: torch.Tensor, offsets: torch.Tensor, sizes: torch.Tensor, crops: torch.Tensor, size: int, taps: int
) -> torch.Tensor:
    """Perform `crop_resize` with torch operations, from `taps` rows and columns of pixels for each result."""
    image = crops[:, 0].long()
    top, left, height, width, mirrored, interpolated = crops[:, 1:, None].unbind(dim=1)  # [B, 1] each
    rows, columns = sizes[image].unsqueeze(2).unbind(dim=1)  # [B, 1] each
    line = torch.arange(size, dtype=torch.float32, device=pixels.device).expand(len(crops), size)
    y, row_weights = _taps(line, top, height / size, top + height, rows, interpolated, taps)
    column = torch.where(mirrored > 0, size - 1 - line, line)
    x, column_weights = _taps(column, left, width / size, left + width, columns, interpolated, taps)
    first = offsets[image][:, None, None, None] + torch.arange(3, device=pixels.device)
    total = torch.zeros(len(crops), size, size, 3, device=pixels.device)
    for i in range(taps):
        sums = torch.zeros_like(total)
        for j in range(taps):
            at = y[:, :, None, i] * columns[:, :, None] + x[:, None, :, j]
            sums += column_weights[:, None, :, j, None] * pixels[first + 3 * at[..., None]]
        total += row_weights[:, :, None, i, None] * sums
    return (total + 0.5).floor().clamp(0, 255).to(torch.uint8).permute(0, 3, 1, 2)


def _taps(
    position: torch.Tensor,  # [B, size]
    start: torch.Tensor,  # [B, 1], as the others
    scale: torch.Tensor,
    end: torch.Tensor,
    length: torch.Tensor,
    interpolated: torch.Tensor,
    taps: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices, int64, and weights, float32, of the pixels along one axis, (B, size, taps) each."""
    begin = start + position * scale
    center = begin + 0.5 * scale - 0.5
    first = torch.where(interpolated > 0, center - 1, begin).floor()[..., None]
    at = first + torch.arange(taps, device=position.device)
    away = (center[..., None] - at).abs()
    near = ((_A + 2) * away - (_A + 3)) * away * away + 1
    far = ((_A * away - 5 * _A) * away + 8 * _A) * away - 4 * _A
    cubic = torch.where(away < 1, near, torch.where(away < 2, far, 0.0))
    begin = begin[..., None]
    overlap = torch.minimum(at + 1, begin + scale[..., None]) - torch.maximum(at, begin)
    weights = torch.where(interpolated[..., None] > 0, cubic, overlap.clamp_min(0) / scale[..., None])
    last = torch.minimum(end.ceil(), length.float()) - 1
    return torch.minimum(torch.maximum(at, start.floor()[..., None]), last[..., None]).long(), weights
