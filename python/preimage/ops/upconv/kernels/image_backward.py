"""Compute the backward pass of a layer that outputs an image in one kernel: gradients of input, weight and biases.

The 5 × 5 window of dz at a pixel, at most 100 values, is loaded once and used twice: multiplied by the weight it gives
the input gradient, multiplied by the input the weight gradient. With the loss fused, dz is computed from the image and
its target when it is loaded, and the layer's bias gradient is computed as well.

block = (pixels, input channels, values of a row of the window: a power of two of at least 5 Co) of one tile; `split`
programs, each of which sums over many tiles.
"""
# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from preimage.ops.upconv.kernel_configs import Config
from preimage.ops.upconv.kernels import _launch
from preimage.ops.upconv.kernels._sums import sum_parts


@triton.jit
def window_tile(
    dz, target, mean, scale, row, i, j, valid, ky, e,
    H: tl.constexpr, W: tl.constexpr, CO: tl.constexpr, LOSS: tl.constexpr,
):  # fmt: skip
    """Load [BM, N], value e of row ky of every pixel's window; zero outside the image.

    The mask is by values along a row, not by pixels, so that pairs of values are loaded together. Values beyond the end
    of the run (e >= 5 Co) belong to the next pixel; their weights are zero, and their sums are not stored.
    """
    within = ((2 * j - 2) * CO)[:, None] + e[None, :]
    yy = 2 * i[:, None] + (ky - 2)[None, :]
    mask = valid[:, None] & (yy >= 0) & (yy < 2 * H) & (within >= 0) & (within < 2 * W * CO)
    offsets = (row * (4 * W * CO))[:, None] + ((ky - 2) * (2 * W * CO))[None, :] + within
    tile = tl.load(dz + offsets, mask=mask, other=0.0)
    if LOSS:
        of_channel = tl.load(mean + e % CO).to(tl.float32)
        of_image = tl.load(scale + row // H, mask=valid, other=0.0).to(tl.float32)
        wanted = tl.load(target + offsets, mask=mask, other=0).to(tl.float32) / 255.0
        difference = (tile.to(tl.float32) + of_channel[None, :] - wanted) * of_image[:, None]
        tile = tl.where(mask, difference, 0.0).to(dz.dtype.element_ty)
    return tile


@triton.jit
def window_weight(weight, ky, e, ci, CI: tl.constexpr, CO: tl.constexpr):
    """Load [N, BN], where value e of a window's row is the tap kx = e // Co and the channel e % Co."""
    pointers = weight + (ky * (5 * CO) + e)[:, None] + (ci * (25 * CO))[None, :]
    return tl.load(pointers, mask=(e < 5 * CO)[:, None] & (ci < CI)[None, :], other=0.0)


@triton.jit
def store_weight(parts, total, ky, e, ci, CI: tl.constexpr, CO: tl.constexpr):
    """Store a partial sum of the weight's gradient, for values e of window row ky and input channels ci."""
    pointers = parts + (ky * (5 * CO) + e)[:, None] + (ci * (25 * CO))[None, :]
    tl.store(pointers, total, mask=(e < 5 * CO)[:, None] & (ci < CI)[None, :])


@triton.jit(do_not_specialize=["pixels"])
def image_backward_kernel(
    x, dz, target, mean, scale, weight, dx, below_parts, dw_parts, own_parts, pixels,
    H: tl.constexpr, W: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr,
    LOSS: tl.constexpr, SLOPE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Compute the gradients over several tiles for a block of input channels. With LOSS, `dz` is the image.

    Rows 0 to 3 of the window are one operand and row 4 another: 5 · RUN columns instead of the power of two 8 · RUN.
    """
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    ci = tl.program_id(1) * BN + tl.arange(0, BN)
    four = tl.arange(0, 4 * RUN)
    ky, e = four // RUN, four % RUN
    e_last = tl.arange(0, RUN)
    ky_last = e_last * 0 + 4
    w_four = window_weight(weight, ky, e, ci, CI, CO)
    w_last = window_weight(weight, ky_last, e_last, ci, CI, CO)
    dw_four = tl.zeros((4 * RUN, BN), dtype=tl.float32)
    dw_last = tl.zeros((RUN, BN), dtype=tl.float32)
    below = tl.zeros((BN,), dtype=tl.float32)
    own = tl.zeros((4 * RUN,), dtype=tl.float32)
    for tile in range(program, tl.cdiv(pixels, BM), programs):
        m = tile * BM + tl.arange(0, BM)
        j = m % W
        row = m // W
        i = row % H
        valid = m < pixels
        p_four = window_tile(dz, target, mean, scale, row, i, j, valid, ky, e, H, W, CO, LOSS)
        p_last = window_tile(dz, target, mean, scale, row, i, j, valid, ky_last, e_last, H, W, CO, LOSS)
        offsets = m[:, None] * CI + ci[None, :]
        mask = valid[:, None] if CI % BN == 0 else valid[:, None] & (ci < CI)[None, :]
        values = tl.load(x + offsets, mask=mask, other=0.0)
        gradient = tl.dot(p_four, w_four, input_precision=PRECISION)
        gradient = tl.dot(p_last, w_last, gradient, input_precision=PRECISION)
        if SLOPE != 1.0:
            gradient = tl.where(values.to(tl.float32) > 0, gradient, gradient * SLOPE)
        tl.store(dx + offsets, gradient.to(dx.dtype.element_ty), mask=mask)
        below += tl.sum(gradient, axis=0)
        dw_four = tl.dot(tl.trans(p_four), values, dw_four, input_precision=PRECISION)
        dw_last = tl.dot(tl.trans(p_last), values, dw_last, input_precision=PRECISION)
        if LOSS:
            own += tl.sum(p_four.to(tl.float32), axis=0)
    tl.store(below_parts + program * CI + ci, below, mask=ci < CI)
    of_program = dw_parts + program.to(tl.int64) * (25 * CI * CO)
    store_weight(of_program, dw_four, ky, e, ci, CI, CO)
    store_weight(of_program, dw_last, ky_last, e_last, ci, CI, CO)
    if LOSS:
        # Every value of dz occurs once in rows 2i and 2i + 1 (ky = 2, 3), pixels 2j and 2j + 1 (2 and 3 of a run).
        pixel = e // CO
        once = (ky >= 2) & (ky <= 3) & (pixel >= 2) & (pixel <= 3)
        if tl.program_id(1) == 0:
            tl.store(own_parts + (program * 4 + (ky - 2) * 2 + pixel - 2) * CO + e % CO, own, mask=once)


Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _run(
    x: torch.Tensor,
    dz: torch.Tensor,
    loss: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,  # target, mean, scale
    weight: torch.Tensor,
    negative_slope: float | None,
    config: Config,
) -> Gradients:
    in_channels, out_channels = weight.shape[:2]
    height, width = x.shape[2:]
    block_m, block_n, run = config.block
    if run < 5 * out_channels:
        raise ValueError(f"blocks must have at least {5 * out_channels} values per row of the window, got {run}")
    pixels = _launch.pixel_count(x)
    programs = max(1, min(config.split, triton.cdiv(pixels, block_m)))
    dx = _launch.new_map(x, in_channels, height, width)
    below_parts = _launch.allocate((programs, in_channels), torch.float32, x.device)
    dw_parts = _launch.allocate((programs, in_channels, 5, 5, out_channels), torch.float32, x.device)
    own_parts = _launch.allocate((programs, 4, out_channels), torch.float32, x.device)
    _launch.launch(
        image_backward_kernel,
        (programs, triton.cdiv(in_channels, block_n)),
        *(x, dz, *(loss or (dz, dz, dz)), weight, dx, below_parts, dw_parts, own_parts, pixels),
        H=max(1, height), W=max(1, width), CI=in_channels, CO=out_channels,
        LOSS=loss is not None, SLOPE=_launch.slope(negative_slope), PRECISION=_launch.precision(x.dtype),
        BM=block_m, BN=block_n, RUN=run, num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    dw = sum_parts(dw_parts, weight.dtype).permute(0, 3, 1, 2)
    return dx, below_parts.sum(0), dw, own_parts


def image_backward_of_gradient(
    x: torch.Tensor,  # [B, Ci, H, W]
    dz: torch.Tensor,  # [B, Co, 2H, 2W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    negative_slope: float | None,
    config: Config,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # [B, Ci, H, W], [Ci], [Ci, Co, 5, 5]
    """Compute the gradients of an image's layer from the gradient of its output."""
    return _run(x, dz, None, weight, negative_slope, config)[:3]


def image_backward_of_distance(
    x: torch.Tensor,  # [B, Ci, H, W]
    y: torch.Tensor,  # [B, C, 2H, 2W]
    target: torch.Tensor,  # [B, C, 2H, 2W] uint8
    mean: torch.Tensor,  # [C]
    scale: torch.Tensor,  # [B] float32
    weight: torch.Tensor,  # [Ci, C, 5, 5]
    negative_slope: float | None,
    config: Config,
) -> Gradients:  # [B, Ci, H, W], [Ci], [Ci, C, 5, 5], [C]
    """Compute the gradients of an image's layer from the distance of the image to a target."""
    dx, below, dw, own_parts = _run(x, y, (target, mean, scale), weight, negative_slope, config)
    return dx, below, dw, own_parts.sum((0, 1))
