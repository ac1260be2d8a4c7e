"""Compute the weight gradient for few output channels: five taps of a row are one run of 5 Co values of dz.

block = (input channels, values of the run in the first accumulator, pixels) of one step; the rest of the run is in a
second accumulator. `split` parts of the pixels, summed by `sum_parts`. A tile of x is used for five taps.
"""
# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from preimage.ops.upconv.kernel_configs import Config
from preimage.ops.upconv.kernels.wgrad import launch_wgrad


@triton.jit
def run_tile(dz, in_row, first, inside, start, row_end, BN: tl.constexpr):
    """Load [BK, BN], the values from `start` on of every pixel's run; zero outside the row.

    Values beyond the end of the run belong to the next pixel; their sums are not stored.
    """
    e = start + tl.arange(0, BN)
    within = first[:, None] + e[None, :]
    mask = inside[:, None] & (within >= 0) & (within < row_end)
    return tl.load(dz + in_row[:, None] + within, mask=mask, other=0.0)


@triton.jit
def store_run(parts, total, ci, start, CI: tl.constexpr, CO: tl.constexpr, BN: tl.constexpr):
    """Store the sums of a run, where value e is the tap kx = e // Co and the channel e % Co."""
    e = start + tl.arange(0, BN)
    offsets = (ci * (25 * CO))[:, None] + e[None, :]
    tl.store(parts + offsets, total.to(parts.dtype.element_ty), mask=(ci < CI)[:, None] & (e < 5 * CO)[None, :])


@triton.jit(do_not_specialize=["pixels", "span"])
def wgrad_window_kernel(
    x, dz, parts, pixels, span,
    H: tl.constexpr, W: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr, PRECISION: tl.constexpr,
    BI: tl.constexpr, BN: tl.constexpr, REST: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Compute dw[ky] over a part of `span` pixels, with REST columns in a second accumulator."""
    ky = tl.program_id(0)
    part = tl.program_id(2)
    dy = ky - 2
    ci = tl.program_id(1) * BI + tl.arange(0, BI)
    k = tl.arange(0, BK)
    end = tl.minimum((part + 1) * span, pixels)
    total = tl.zeros((BI, BN), dtype=tl.float32)
    if REST > 0:
        rest = tl.zeros((BI, REST), dtype=tl.float32)
    for start in range(part * span, end, BK):
        m = start + k
        j = m % W
        row = m // W
        i = row % H
        valid = m < end
        inside = valid & (2 * i + dy >= 0) & (2 * i + dy < 2 * H)
        first = (2 * j - 2) * CO
        in_row = (2 * row + dy) * (2 * W * CO)
        if CI % BI == 0:
            values = tl.load(x + m[:, None] * CI + ci[None, :], mask=valid[:, None], other=0.0)
        else:
            values = tl.load(x + m[:, None] * CI + ci[None, :], mask=valid[:, None] & (ci < CI)[None, :], other=0.0)
        turned = tl.trans(values)
        gradients = run_tile(dz, in_row, first, inside, 0, 2 * W * CO, BN)
        total = tl.dot(turned, gradients, total, input_precision=PRECISION)
        if REST > 0:
            gradients = run_tile(dz, in_row, first, inside, BN, 2 * W * CO, REST)
            rest = tl.dot(turned, gradients, rest, input_precision=PRECISION)
    target = parts + part.to(tl.int64) * (25 * CI * CO) + ky * (5 * CO)
    store_run(target, total, ci, 0, CI, CO, BN)
    if REST > 0:
        store_run(target, rest, ci, BN, CI, CO, REST)


def wgrad_window(
    x: torch.Tensor,  # [B, Ci, H, W]
    dz: torch.Tensor,  # [B, Co, 2H, 2W]
    config: Config,
) -> torch.Tensor:  # [Ci, Co, 5, 5]
    """Compute the gradient of the weight, one row of taps in each program."""
    block_i, block_n, _ = config.block
    rest = max(0, 5 * dz.shape[1] - block_n)
    tiles = (5, triton.cdiv(x.shape[1], block_i))
    rest_block = max(16, triton.next_power_of_2(rest)) if rest else 0
    return launch_wgrad(wgrad_window_kernel, tiles, x, dz, config, BN=block_n, REST=rest_block)
