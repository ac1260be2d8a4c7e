"""Compute the input gradient for few output channels: five neighboring pixels of a row are one run of 5 Co values.

block = (pixels, input channels, values of the run) of one tile. Co need not divide the last.
"""
# ruff: noqa: N803, N806
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import functools

import triton
import triton.language as tl

from preimage.ops.upconv.kernels._tiles import masked_by
from preimage.ops.upconv.kernels.dgrad import launch_dgrad


@triton.jit(do_not_specialize=["pixels", "height", "width"])
def dgrad_window_kernel(
    dz, weight, below, dx, bias_parts, pixels, height, width,
    CI: tl.constexpr, CO: tl.constexpr,
    MASK: tl.constexpr, SUMS: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Multiply, for each of 5 rows, the run from pixel 2j - 2 to 2j + 2 by the taps kx = 0 to 4; one tile per program.

    The mask of dz is by values along a row, not by pixels, so that pairs of values are loaded together. Values beyond
    the end of the run belong to the next pixel, and their weights are zero.

    With SUMS the column sums, after the mask, are stored in bias_parts (tiles of pixels, Ci).
    """
    COLUMN_BLOCKS: tl.constexpr = (CI + BN - 1) // BN
    RUN: tl.constexpr = 5 * CO
    PIECES: tl.constexpr = (RUN + BK - 1) // BK
    tile_m = tl.program_id(0) // COLUMN_BLOCKS
    m = tile_m * BM + tl.arange(0, BM)
    columns = (tl.program_id(0) % COLUMN_BLOCKS) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    valid = m < pixels
    j = m % width
    row = m // width
    i = row % height
    first = ((2 * j - 2) * CO)[:, None] + k[None, :]  # start of the run in its row of dz
    in_row = row * (4 * width * CO)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range(0, 5 * PIECES):
        ky = step // PIECES
        start = (step - ky * PIECES) * BK
        dy = ky - 2
        inside = valid & (2 * i + dy >= 0) & (2 * i + dy < 2 * height)
        within = first + start
        mask = inside[:, None] & (within >= 0) & (within < 2 * width * CO)
        part = tl.load(dz + (in_row + dy * (2 * width * CO))[:, None] + within, mask=mask, other=0.0)
        taps = weight + (columns * (25 * CO))[None, :] + (ky * RUN + start + k)[:, None]
        matrix = tl.load(taps, mask=(start + k < RUN)[:, None] & (columns < CI)[None, :], other=0.0)
        total = tl.dot(part, matrix, total, input_precision=PRECISION)
    offsets = m[:, None] * CI + columns[None, :]
    mask = valid[:, None] & (columns < CI)[None, :]
    if MASK:
        total = masked_by(total, below, offsets, mask, SLOPE)
    tl.store(dx + offsets, total.to(dx.dtype.element_ty), mask=mask)
    if SUMS:  # rows beyond the last pixel are zero
        tl.store(bias_parts + tile_m * CI + columns, tl.sum(total, axis=0), mask=columns < CI)


dgrad_window = functools.partial(launch_dgrad, dgrad_window_kernel)
