"""Compute the forward pass with all four phases of the output per program: 9 shifted input tiles for 25 taps.

block = (pixels, output channels, input channels) of one tile; four accumulators of pixels × output channels.
"""
# ruff: noqa: N803, N806, PLR0915
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import functools

import triton
import triton.language as tl

from preimage.ops.upconv.kernels._forward import launch_with_weight
from preimage.ops.upconv.kernels._tiles import activated, input_tile, weight_tile


@triton.jit(do_not_specialize=["pixels", "height", "width"])
def all_phases_kernel(
    x, weight, bias, y, pixels, height, width,
    CI: tl.constexpr, CO: tl.constexpr, K_STRIDE: tl.constexpr, N_STRIDE: tl.constexpr,
    TAP_STRIDE: tl.constexpr, HAS_BIAS: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Compute the 2 × 2 output blocks of a tile of BM pixels, in BN channels.

    The input shifted by (sy, sx) contributes to phase (a, b) by the tap (4 - 2 sy + a, 4 - 2 sx + b), if it exists.
    Shifts that contribute to the same phases are one flat loop, because loops of one iteration are not pipelined.
    """
    COLUMN_BLOCKS: tl.constexpr = (CO + BN - 1) // BN
    CHANNEL_BLOCKS: tl.constexpr = (CI + BK - 1) // BK
    tile = tl.program_id(0)
    m = (tile // COLUMN_BLOCKS) * BM + tl.arange(0, BM)
    columns = (tile % COLUMN_BLOCKS) * BN + tl.arange(0, BN)
    valid = m < pixels
    j = m % width
    row = m // width
    i = row % height
    y00 = tl.zeros((BM, BN), dtype=tl.float32)
    y01 = tl.zeros((BM, BN), dtype=tl.float32)
    y10 = tl.zeros((BM, BN), dtype=tl.float32)
    y11 = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range(0, 4 * CHANNEL_BLOCKS):
        shift = step // CHANNEL_BLOCKS
        channel = (step - shift * CHANNEL_BLOCKS) * BK
        sy = 1 + shift // 2
        sx = 1 + shift % 2
        tap = 24 - 10 * sy - 2 * sx
        part = input_tile(x, m, i, j, valid, sy - 1, sx - 1, channel, height, width, CI, BK)
        w00 = weight_tile(weight, tap, channel, columns, CI, CO, K_STRIDE, N_STRIDE, TAP_STRIDE, BK, BN)
        w01 = weight_tile(weight, tap + 1, channel, columns, CI, CO, K_STRIDE, N_STRIDE, TAP_STRIDE, BK, BN)
        w10 = weight_tile(weight, tap + 5, channel, columns, CI, CO, K_STRIDE, N_STRIDE, TAP_STRIDE, BK, BN)
        w11 = weight_tile(weight, tap + 6, channel, columns, CI, CO, K_STRIDE, N_STRIDE, TAP_STRIDE, BK, BN)
        y00 = tl.dot(part, w00, y00, input_precision=PRECISION)
        y01 = tl.dot(part, w01, y01, input_precision=PRECISION)
        y10 = tl.dot(part, w10, y10, input_precision=PRECISION)
        y11 = tl.dot(part, w11, y11, input_precision=PRECISION)
    for step in range(0, 2 * CHANNEL_BLOCKS):  # sy = 0, sx = 1, 2
        shift = step // CHANNEL_BLOCKS
        channel = (step - shift * CHANNEL_BLOCKS) * BK
        tap = 22 - 2 * shift
        part = input_tile(x, m, i, j, valid, -1, shift, channel, height, width, CI, BK)
        w00 = weight_tile(weight, tap, channel, columns, CI, CO, K_STRIDE, N_STRIDE, TAP_STRIDE, BK, BN)
        w01 = weight_tile(weight, tap + 1, channel, columns, CI, CO, K_STRIDE, N_STRIDE, TAP_STRIDE, BK, BN)
        y00 = tl.dot(part, w00, y00, input_precision=PRECISION)
        y01 = tl.dot(part, w01, y01, input_precision=PRECISION)
    for step in range(0, 2 * CHANNEL_BLOCKS):  # sy = 1, 2, sx = 0
        shift = step // CHANNEL_BLOCKS
        channel = (step - shift * CHANNEL_BLOCKS) * BK
        tap = 14 - 10 * shift
        part = input_tile(x, m, i, j, valid, shift, -1, channel, height, width, CI, BK)
        w00 = weight_tile(weight, tap, channel, columns, CI, CO, K_STRIDE, N_STRIDE, TAP_STRIDE, BK, BN)
        w10 = weight_tile(weight, tap + 5, channel, columns, CI, CO, K_STRIDE, N_STRIDE, TAP_STRIDE, BK, BN)
        y00 = tl.dot(part, w00, y00, input_precision=PRECISION)
        y10 = tl.dot(part, w10, y10, input_precision=PRECISION)
    for step in range(0, CHANNEL_BLOCKS):  # sy = sx = 0
        channel = step * BK
        part = input_tile(x, m, i, j, valid, -1, -1, channel, height, width, CI, BK)
        w00 = weight_tile(weight, 24, channel, columns, CI, CO, K_STRIDE, N_STRIDE, TAP_STRIDE, BK, BN)
        y00 = tl.dot(part, w00, y00, input_precision=PRECISION)
    offsets = (row * (4 * width) + 2 * j)[:, None] * CO + columns[None, :]
    mask = valid[:, None] & (columns < CO)[None, :]
    second = 2 * width * CO
    y00 = activated(y00, bias, columns, columns < CO, HAS_BIAS, SLOPE)
    tl.store(y + offsets, y00.to(y.dtype.element_ty), mask=mask)
    y01 = activated(y01, bias, columns, columns < CO, HAS_BIAS, SLOPE)
    tl.store(y + offsets + CO, y01.to(y.dtype.element_ty), mask=mask)
    y10 = activated(y10, bias, columns, columns < CO, HAS_BIAS, SLOPE)
    tl.store(y + offsets + second, y10.to(y.dtype.element_ty), mask=mask)
    y11 = activated(y11, bias, columns, columns < CO, HAS_BIAS, SLOPE)
    tl.store(y + offsets + (second + CO), y11.to(y.dtype.element_ty), mask=mask)


forward_all_phases = functools.partial(launch_with_weight, all_phases_kernel)
