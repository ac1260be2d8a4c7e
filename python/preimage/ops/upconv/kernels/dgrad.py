"""Compute the input gradient, with the mask and the bias gradient of the layer below fused.

block = (pixels, input channels, output channels) of one tile.
"""
# ruff: noqa: N803, N806
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl

from preimage.ops.upconv.kernel_configs import Config
from preimage.ops.upconv.kernels import _launch
from preimage.ops.upconv.kernels._tiles import masked_by


@triton.jit(do_not_specialize=["pixels", "height", "width"])
def dgrad_kernel(
    dz, weight, below, dx, bias_parts, pixels, height, width,
    CI: tl.constexpr, CO: tl.constexpr,
    MASK: tl.constexpr, SUMS: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Compute dx[i, j] = Σ dz[2i + ky - 2, 2j + kx - 2] · w[ky, kx] over 25 taps and Co channels, one tile per program.

    With SUMS the column sums, after the mask, are stored in bias_parts (tiles of pixels, Ci).
    """
    COLUMN_BLOCKS: tl.constexpr = (CI + BN - 1) // BN
    CHANNEL_BLOCKS: tl.constexpr = (CO + BK - 1) // BK
    tile_m = tl.program_id(0) // COLUMN_BLOCKS
    m = tile_m * BM + tl.arange(0, BM)
    columns = (tl.program_id(0) % COLUMN_BLOCKS) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    valid = m < pixels
    j = m % width
    row = m // width
    i = row % height
    corner = (row * (4 * width) + 2 * j)[:, None] * CO + k[None, :]  # upper left pixel of the 2 × 2 block in dz
    of_weight = columns[None, :] * (25 * CO) + k[:, None]
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range(0, 25 * CHANNEL_BLOCKS):
        tap = step // CHANNEL_BLOCKS
        channel = (step - tap * CHANNEL_BLOCKS) * BK
        dy = tap // 5 - 2
        dx_ = tap % 5 - 2
        inside = valid & (2 * i + dy >= 0) & (2 * i + dy < 2 * height) & (2 * j + dx_ >= 0) & (2 * j + dx_ < 2 * width)
        pointers = dz + corner + ((dy * (2 * width) + dx_) * CO + channel)
        taps = weight + of_weight + (tap * CO + channel)
        if CO % BK == 0:
            part = tl.load(pointers, mask=inside[:, None], other=0.0)
            matrix = tl.load(taps) if CI % BN == 0 else tl.load(taps, mask=(columns < CI)[None, :], other=0.0)
        else:
            exists = channel + k < CO
            part = tl.load(pointers, mask=inside[:, None] & exists[None, :], other=0.0)
            matrix = tl.load(taps, mask=exists[:, None] & (columns < CI)[None, :], other=0.0)
        total = tl.dot(part, matrix, total, input_precision=PRECISION)
    offsets = m[:, None] * CI + columns[None, :]
    mask = valid[:, None] & (columns < CI)[None, :]
    if MASK:
        total = masked_by(total, below, offsets, mask, SLOPE)
    tl.store(dx + offsets, total.to(dx.dtype.element_ty), mask=mask)
    if SUMS:  # rows beyond the last pixel are zero
        tl.store(bias_parts + tile_m * CI + columns, tl.sum(total, axis=0), mask=columns < CI)


def launch_dgrad(
    kernel: Any,
    dz: torch.Tensor,  # [B, Co, 2H, 2W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    below: torch.Tensor | None,  # [B, Ci, H, W]
    negative_slope: float | None,
    config: Config,
) -> tuple[torch.Tensor, torch.Tensor]:  # [B, Ci, H, W], [Ci]
    """Launch either of the two kernels, which have the same parameters."""
    in_channels, out_channels = weight.shape[:2]
    height, width = dz.shape[2] // 2, dz.shape[3] // 2
    block_m, block_n, block_k = config.block
    dx = _launch.new_map(dz, in_channels, height, width)
    pixels = _launch.pixel_count(dx)
    tiles = triton.cdiv(pixels, block_m)
    sums = below is not None
    bias_parts = _launch.allocate((tiles, in_channels) if sums else (0,), torch.float32, dz.device)
    masked = below is not None and negative_slope is not None
    _launch.launch(
        kernel,
        (tiles * triton.cdiv(in_channels, block_n),),
        *(dz, weight, below if masked else dz, dx, bias_parts if sums else dz, pixels, height, width),
        CI=in_channels, CO=out_channels,
        MASK=masked, SUMS=sums, SLOPE=_launch.slope(negative_slope), PRECISION=_launch.precision(dz.dtype),
        BM=block_m, BN=block_n, BK=block_k, num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return dx, bias_parts.sum(0) if sums else bias_parts


dgrad_taps = functools.partial(launch_dgrad, dgrad_kernel)
