"""Compute the weight gradient: for every tap a product of matrices (Ci, pixels) · (pixels, Co).

block = (input channels, output channels, pixels) of one step; `split` parts of the pixels, summed by `sum_parts`.
"""
# ruff: noqa: N803, N806
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from preimage.ops.upconv.kernel_configs import Config
from preimage.ops.upconv.kernels import _launch
from preimage.ops.upconv.kernels._sums import sum_parts


@triton.jit(do_not_specialize=["pixels", "span"])
def wgrad_kernel(
    x, dz, parts, pixels, span,
    H: tl.constexpr, W: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr, PRECISION: tl.constexpr,
    BI: tl.constexpr, BO: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Compute dw[ky, kx] = Σ x[i, j] · dz[2i + ky - 2, 2j + kx - 2] over a part of `span` pixels, one block per
    program.

    H and W are constants, because every step divides by them.
    """
    OUT_BLOCKS: tl.constexpr = (CO + BO - 1) // BO
    tap = tl.program_id(0)
    block = tl.program_id(1)
    part = tl.program_id(2)
    dy = tap // 5 - 2
    dx = tap % 5 - 2
    ci = (block // OUT_BLOCKS) * BI + tl.arange(0, BI)
    co = (block % OUT_BLOCKS) * BO + tl.arange(0, BO)
    k = tl.arange(0, BK)
    end = tl.minimum((part + 1) * span, pixels)
    total = tl.zeros((BI, BO), dtype=tl.float32)
    for start in range(part * span, end, BK):
        m = start + k
        j = m % W
        row = m // W
        i = row % H
        valid = m < end
        inside = valid & (2 * i + dy >= 0) & (2 * i + dy < 2 * H) & (2 * j + dx >= 0) & (2 * j + dx < 2 * W)
        of_x = x + m[:, None] * CI + ci[None, :]
        of_dz = dz + (((2 * row + dy) * (2 * W) + 2 * j + dx) * CO)[:, None] + co[None, :]
        if CI % BI == 0:
            values = tl.load(of_x, mask=valid[:, None], other=0.0)
        else:
            values = tl.load(of_x, mask=valid[:, None] & (ci < CI)[None, :], other=0.0)
        if CO % BO == 0:
            gradients = tl.load(of_dz, mask=inside[:, None], other=0.0)
        else:
            gradients = tl.load(of_dz, mask=inside[:, None] & (co < CO)[None, :], other=0.0)
        total = tl.dot(tl.trans(values), gradients, total, input_precision=PRECISION)
    offsets = ci[:, None] * (25 * CO) + (tap * CO + co)[None, :]
    target = parts + part.to(tl.int64) * (25 * CI * CO)
    tl.store(target + offsets, total.to(parts.dtype.element_ty), mask=(ci < CI)[:, None] & (co < CO)[None, :])


def spans(pixels: int, split: int, block: int) -> tuple[int, int]:
    """Return the number of parts, at most `split`, and the number of pixels per part, a multiple of `block`."""
    span = max(1, triton.cdiv(triton.cdiv(pixels, split), block)) * block
    return max(1, triton.cdiv(pixels, span)), span


def launch_wgrad(
    kernel: Any,
    tiles: tuple[int, int],
    x: torch.Tensor,  # [B, Ci, H, W]
    dz: torch.Tensor,  # [B, Co, 2H, 2W]
    config: Config,
    **blocks: int,
) -> torch.Tensor:  # [Ci, Co, 5, 5]
    """Launch either of the two kernels, one program for every tile and part of the sum, and add the parts."""
    _, in_channels, height, width = x.shape
    out_channels = dz.shape[1]
    block_i, _, block_k = config.block
    pixels = _launch.pixel_count(x)
    count, span = spans(pixels, config.split, block_k)
    dtype = x.dtype if count == 1 else torch.float32
    parts = _launch.allocate((count, in_channels, 5, 5, out_channels), dtype, x.device)
    _launch.launch(
        kernel,
        (*tiles, count),
        *(x, dz, parts, pixels, span),
        H=max(1, height), W=max(1, width), CI=in_channels, CO=out_channels, PRECISION=_launch.precision(x.dtype),
        BI=block_i, BK=block_k, **blocks, num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    dw = parts[0] if count == 1 else sum_parts(parts, x.dtype)
    return dw.permute(0, 3, 1, 2)


def wgrad_taps(
    x: torch.Tensor,  # [B, Ci, H, W]
    dz: torch.Tensor,  # [B, Co, 2H, 2W]
    config: Config,
) -> torch.Tensor:  # [Ci, Co, 5, 5]
    """Compute the gradient of the weight, one tap in each program."""
    block_i, block_o, _ = config.block
    blocks = triton.cdiv(x.shape[1], block_i) * triton.cdiv(dz.shape[1], block_o)
    return launch_wgrad(wgrad_kernel, (25, blocks), x, dz, config, BO=block_o)
