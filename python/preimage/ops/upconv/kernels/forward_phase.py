"""Compute the forward pass with one phase of the output per program, for many output channels.

block = (pixels, output channels, input channels) of one tile.
"""
# ruff: noqa: N803, N806
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import functools

import triton
import triton.language as tl

from preimage.ops.upconv.kernels._forward import launch_with_weight
from preimage.ops.upconv.kernels._tiles import activated, input_tile, weight_tile


@triton.jit(do_not_specialize=["pixels", "height", "width"])
def phase_kernel(
    x, weight, bias, y, pixels, height, width,
    CI: tl.constexpr, CO: tl.constexpr, K_STRIDE: tl.constexpr, N_STRIDE: tl.constexpr,
    TAP_STRIDE: tl.constexpr, HAS_BIAS: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Compute the phase (a, b) of a tile, y[2i + a, 2j + b] for BM pixels (i, j) and BN channels."""
    COLUMN_BLOCKS: tl.constexpr = (CO + BN - 1) // BN
    CHANNEL_BLOCKS: tl.constexpr = (CI + BK - 1) // BK
    tile = tl.program_id(0)
    phase = tl.program_id(1)  # slowest index: programs of 9 taps start first, those of 4 taps fill the end
    a = phase // 2
    b = phase % 2
    m = (tile // COLUMN_BLOCKS) * BM + tl.arange(0, BM)
    columns = (tile % COLUMN_BLOCKS) * BN + tl.arange(0, BN)
    valid = m < pixels
    j = m % width
    row = m // width
    i = row % height
    total = tl.zeros((BM, BN), dtype=tl.float32)
    # One flat loop over taps and channels, so that the pipeline does not drain.
    for step in range(0, (3 - a) * (3 - b) * CHANNEL_BLOCKS):
        tap = step // CHANNEL_BLOCKS
        channel = (step - tap * CHANNEL_BLOCKS) * BK
        ty = (tap * (11 + 5 * b)) >> 5  # tap // (3 - b) for tap < 9
        tx = tap - ty * (3 - b)
        part = input_tile(x, m, i, j, valid, ty - 1 + a, tx - 1 + b, channel, height, width, CI, BK)
        weight_tap = (4 - 2 * ty - a) * 5 + 4 - 2 * tx - b
        taps = weight_tile(weight, weight_tap, channel, columns, CI, CO, K_STRIDE, N_STRIDE, TAP_STRIDE, BK, BN)
        total = tl.dot(part, taps, total, input_precision=PRECISION)
    total = activated(total, bias, columns, columns < CO, HAS_BIAS, SLOPE)
    offsets = ((2 * row + a) * (2 * width) + 2 * j + b)[:, None] * CO + columns[None, :]
    if CO % BN == 0:
        tl.store(y + offsets, total.to(y.dtype.element_ty), mask=valid[:, None])
    else:
        tl.store(y + offsets, total.to(y.dtype.element_ty), mask=valid[:, None] & (columns < CO)[None, :])


forward_phase = functools.partial(launch_with_weight, phase_kernel, phases=(4,))
