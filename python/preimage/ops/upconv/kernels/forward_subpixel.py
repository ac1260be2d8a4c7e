"""Compute the forward pass of images: all four phases of at most 4 channels as 16 columns of one 3 × 3 convolution.

block = (pixels, 16, input channels) of one tile. The image is stored with three channels per pixel; padding to four
would add a third to the memory traffic. The columns of a row, of neighboring pixels, are contiguous in memory; rows are
stored one by one, so that a warp writes contiguous memory.
"""
# ruff: noqa: N803, N806
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from preimage.ops.upconv.kernel_configs import Config
from preimage.ops.upconv.kernels import _launch
from preimage.ops.upconv.kernels._forward import launch_forward
from preimage.ops.upconv.kernels._tiles import activated, input_tile

COLUMNS = 16  # row 2i: (b, channel) from 0, row 2i + 1: from 8


@triton.jit(do_not_specialize=["pixels", "height", "width"])
def subpixel_kernel(
    x, weight, bias, y, pixels, height, width,
    CI: tl.constexpr, CO: tl.constexpr, K_STRIDE: tl.constexpr, N_STRIDE: tl.constexpr,
    TAP_STRIDE: tl.constexpr, HAS_BIAS: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Compute the 2 × 2 output blocks of a tile of BM pixels; the strides give the weight the shape (9 Ci, 16)."""
    CHANNEL_BLOCKS: tl.constexpr = (CI + BK - 1) // BK
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.arange(0, BN)
    k = tl.arange(0, BK)
    valid = m < pixels
    j = m % width
    row = m // width
    i = row % height
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range(0, 9 * CHANNEL_BLOCKS):
        shift = step // CHANNEL_BLOCKS
        channel = (step - shift * CHANNEL_BLOCKS) * BK
        part = input_tile(x, m, i, j, valid, shift // 3 - 1, shift % 3 - 1, channel, height, width, CI, BK)
        pointers = (
            weight + (k[:, None] * K_STRIDE + columns[None, :] * N_STRIDE) + (shift * TAP_STRIDE + channel * K_STRIDE)
        )
        taps = tl.load(pointers) if CI % BK == 0 else tl.load(pointers, mask=(channel + k < CI)[:, None], other=0.0)
        total = tl.dot(part, taps, total, input_precision=PRECISION)
    upper, lower = tl.split(tl.permute(tl.reshape(total, (BM, 2, BN // 2)), (0, 2, 1)))
    of_row = tl.arange(0, BN // 2)
    exists = of_row < 2 * CO
    offsets = (row * (4 * width) + 2 * j)[:, None] * CO + of_row[None, :]
    mask = valid[:, None] & exists[None, :]
    upper = activated(upper, bias, of_row % CO, exists, HAS_BIAS, SLOPE)
    tl.store(y + offsets, upper.to(y.dtype.element_ty), mask=mask)
    lower = activated(lower, bias, of_row % CO, exists, HAS_BIAS, SLOPE)
    tl.store(y + offsets + 2 * width * CO, lower.to(y.dtype.element_ty), mask=mask)


@triton.jit
def subpixel_weight_kernel(
    weight, matrix, CI: tl.constexpr, CO: tl.constexpr, K_STRIDE: tl.constexpr, N_STRIDE: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write matrix[(shift, channel), (a, b, co)] = weight[4 - 2 sy + a, 4 - 2 sx + b, channel, co], or 0."""
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = element % COLUMNS
    k = element // COLUMNS
    shift = k // CI
    a = column // (COLUMNS // 2)
    of_row = column % (COLUMNS // 2)
    ky = 4 - 2 * (shift // 3) + a
    kx = 4 - 2 * (shift % 3) + of_row // CO
    exists = (k < 9 * CI) & (of_row < 2 * CO) & (ky <= 4) & (kx <= 4)
    value = tl.load(weight + ((k % CI) * 25 + ky * 5 + kx) * CO + of_row % CO, mask=exists, other=0.0)
    tl.store(matrix + k * K_STRIDE + column * N_STRIDE, value, mask=k < 9 * CI)


def subpixel_weight(weight: torch.Tensor) -> tuple[torch.Tensor, int, int, int]:
    """Return the weight as a matrix (9 Ci, 16), and the strides of input channels, of columns and of shifts."""
    in_channels, out_channels = weight.shape[:2]
    # TF32 needs the summed index innermost.
    k_stride, n_stride = (1, 9 * in_channels) if weight.dtype == torch.float32 else (COLUMNS, 1)
    size = 9 * in_channels * COLUMNS
    matrix = _launch.allocate((size,), weight.dtype, weight.device)
    _launch.launch(
        subpixel_weight_kernel,
        (triton.cdiv(size, 1024),),
        *(weight, matrix),
        CI=in_channels, CO=out_channels, K_STRIDE=k_stride, N_STRIDE=n_stride, COLUMNS=COLUMNS,
        BLOCK=1024, num_warps=4, num_stages=1,
    )  # fmt: skip
    return matrix, k_stride, n_stride, in_channels * k_stride


def forward_subpixel(
    x: torch.Tensor,  # [B, Ci, H, W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    bias: torch.Tensor | None,  # [Co]
    negative_slope: float | None,
    config: Config,
) -> torch.Tensor:  # [B, Co, 2H, 2W]
    """Compute the forward pass as one 3 × 3 convolution with 16 columns, for at most 4 output channels."""
    out_channels = weight.shape[1]
    if 2 * out_channels > COLUMNS // 2:
        raise ValueError(f"the subpixel kernel needs at most 4 output channels, got {out_channels}")
    if config.block[1] != COLUMNS:
        raise ValueError(f"blocks of the subpixel kernel must have {COLUMNS} columns, got {config.block[1]}")
    matrix = subpixel_weight(weight)
    return launch_forward(
        subpixel_kernel, x, matrix, bias, negative_slope, config, out_channels=out_channels, columns=COLUMNS
    )
