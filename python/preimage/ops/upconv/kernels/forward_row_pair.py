"""Compute the forward pass with both phases of a row as columns, and both rows per program, for few output channels.

block = (pixels, columns out of 2 Co, input channels) of one tile; two accumulators of pixels × columns. The 25 taps
take 30 products, but a tile has twice the columns, and rows of the output are contiguous.
"""
# ruff: noqa: N803, N806
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import functools

import triton
import triton.language as tl

from preimage.ops.upconv.kernels._forward import launch_with_weight
from preimage.ops.upconv.kernels._tiles import activated, input_tile


@triton.jit
def pair_tile(
    weight, ky, sx, channel, columns,
    CI: tl.constexpr, CO: tl.constexpr, K_STRIDE: tl.constexpr, N_STRIDE: tl.constexpr, TAP_STRIDE: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    """Load weights [BK, BN]: column (b, co) is the tap (ky, 4 - 2 sx + b), or zero outside the kernel."""
    k = tl.arange(0, BK)
    b = columns // CO
    # In channels_last the columns of both taps are contiguous.
    of_column = columns if N_STRIDE == 1 else (columns - b * CO) * N_STRIDE + b * TAP_STRIDE
    pointers = (
        weight
        + (k[:, None] * K_STRIDE + of_column[None, :])
        + ((ky * 5 + 4 - 2 * sx) * TAP_STRIDE + channel * K_STRIDE)
    )
    exists = (columns < 2 * CO) & (2 * sx - b >= 0)
    if CI % BK == 0:
        tile = tl.load(pointers, mask=exists[None, :], other=0.0)
    else:
        tile = tl.load(pointers, mask=(channel + k < CI)[:, None] & exists[None, :], other=0.0)
    return tile


@triton.jit(do_not_specialize=["pixels", "height", "width"])
def row_pair_kernel(
    x, weight, bias, y, pixels, height, width,
    CI: tl.constexpr, CO: tl.constexpr, K_STRIDE: tl.constexpr, N_STRIDE: tl.constexpr,
    TAP_STRIDE: tl.constexpr, HAS_BIAS: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Compute the 2 × 2 output blocks of a tile of BM pixels; a column is (b, channel)."""
    COLUMN_BLOCKS: tl.constexpr = (2 * CO + BN - 1) // BN
    CHANNEL_BLOCKS: tl.constexpr = (CI + BK - 1) // BK
    tile = tl.program_id(0)
    m = (tile // COLUMN_BLOCKS) * BM + tl.arange(0, BM)
    columns = (tile % COLUMN_BLOCKS) * BN + tl.arange(0, BN)
    valid = m < pixels
    j = m % width
    row = m // width
    i = row % height
    upper = tl.zeros((BM, BN), dtype=tl.float32)
    lower = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range(0, 6 * CHANNEL_BLOCKS):  # the pixel's row and the next contribute to both output rows
        shift = step // CHANNEL_BLOCKS
        channel = (step - shift * CHANNEL_BLOCKS) * BK
        sy = 1 + shift // 3
        sx = shift % 3
        part = input_tile(x, m, i, j, valid, sy - 1, sx - 1, channel, height, width, CI, BK)
        above = pair_tile(weight, 4 - 2 * sy, sx, channel, columns, CI, CO, K_STRIDE, N_STRIDE, TAP_STRIDE, BK)
        below = pair_tile(weight, 5 - 2 * sy, sx, channel, columns, CI, CO, K_STRIDE, N_STRIDE, TAP_STRIDE, BK)
        upper = tl.dot(part, above, upper, input_precision=PRECISION)
        lower = tl.dot(part, below, lower, input_precision=PRECISION)
    for step in range(0, 3 * CHANNEL_BLOCKS):  # the row before contributes to the upper one
        sx = step // CHANNEL_BLOCKS
        channel = (step - sx * CHANNEL_BLOCKS) * BK
        part = input_tile(x, m, i, j, valid, -1, sx - 1, channel, height, width, CI, BK)
        above = pair_tile(weight, 4, sx, channel, columns, CI, CO, K_STRIDE, N_STRIDE, TAP_STRIDE, BK)
        upper = tl.dot(part, above, upper, input_precision=PRECISION)
    offsets = (row * (4 * width) + 2 * j)[:, None] * CO + columns[None, :]
    mask = valid[:, None] & (columns < 2 * CO)[None, :]
    upper = activated(upper, bias, columns % CO, columns < 2 * CO, HAS_BIAS, SLOPE)
    tl.store(y + offsets, upper.to(y.dtype.element_ty), mask=mask)
    lower = activated(lower, bias, columns % CO, columns < 2 * CO, HAS_BIAS, SLOPE)
    tl.store(y + offsets + 2 * width * CO, lower.to(y.dtype.element_ty), mask=mask)


forward_row_pair = functools.partial(launch_with_weight, row_pair_kernel, columns=2)
