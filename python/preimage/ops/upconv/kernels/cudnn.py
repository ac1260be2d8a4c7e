"""Run cuDNN's convolutions, and bias, activation, mask and bias gradient around them in one elementwise kernel.

torch would run bias, leaky ReLU, mask and sum as kernels of their own, each of which reads the maps again. block =
(pixels, channels) of one tile. The number of channels is `units` times the constant UNIT, a power of two: accesses are
as wide as it permits, and one compiled kernel serves almost all layers.
"""
# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from preimage.ops.upconv.kernel_configs import Config
from preimage.ops.upconv.kernels import _launch
from preimage.ops.upconv.kernels._tiles import activated, masked_by

PROGRAMS = 264  # maximum number per block of channels, two for each of about 130 multiprocessors; each sums many tiles


@triton.jit(do_not_specialize=["pixels", "units"])
def activation_kernel(
    y, bias, pixels, units,
    UNIT: tl.constexpr, HAS_BIAS: tl.constexpr, SLOPE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Apply bias and leaky ReLU to a tile in place."""
    channels = units * UNIT
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    exists = columns < channels
    mask = (m < pixels)[:, None] & exists[None, :]
    pointers = y + (m[:, None] * channels + columns[None, :])
    value = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    value = activated(value, bias, columns, exists, HAS_BIAS, SLOPE)
    tl.store(pointers, value.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["pixels", "units"])
def activation_backward_kernel(
    gradient, y, dz, bias_parts, pixels, units,
    UNIT: tl.constexpr, SLOPE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Compute dz from the gradient of y, which may be in the same memory, and its column sums over several tiles."""
    channels = units * UNIT
    program = tl.program_id(0)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    exists = columns < channels
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for tile in range(program, tl.cdiv(pixels, BM), tl.num_programs(0)):
        m = tile * BM + tl.arange(0, BM)
        mask = (m < pixels)[:, None] & exists[None, :]
        offsets = m[:, None] * channels + columns[None, :]
        value = tl.load(gradient + offsets, mask=mask, other=0.0).to(tl.float32)
        if SLOPE != 1.0:
            value = masked_by(value, y, offsets, mask, SLOPE)
        tl.store(dz + offsets, value.to(dz.dtype.element_ty), mask=mask)
        total += value
    tl.store(bias_parts + program * channels + columns, tl.sum(total, axis=0), mask=exists)


def forward_cudnn(
    x: torch.Tensor,  # [B, Ci, H, W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    bias: torch.Tensor | None,  # [Co]
    negative_slope: float | None,
    config: Config,
) -> torch.Tensor:  # [B, Co, 2H, 2W]
    """Compute the forward pass with cuDNN, and bias and leaky ReLU in place."""
    y = F.conv_transpose2d(x, weight, stride=2, padding=2, output_padding=1)
    y = _launch.channels_last("y", y, tuple(y.shape))
    if bias is None and negative_slope is None:
        return y
    pixels, channels = _launch.pixel_count(y), y.shape[1]
    unit, (block_m, block_n) = math.gcd(channels, 16), config.block
    _launch.launch(
        activation_kernel,
        (triton.cdiv(pixels, block_m), triton.cdiv(channels, block_n)),
        *(y, y if bias is None else bias, pixels, channels // unit),
        UNIT=unit, HAS_BIAS=bias is not None, SLOPE=_launch.slope(negative_slope), BM=block_m, BN=block_n,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return y


def dgrad_cudnn(
    dz: torch.Tensor,  # [B, Co, 2H, 2W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    below: torch.Tensor | None,  # [B, Ci, H, W]
    negative_slope: float | None,
    config: Config,
) -> tuple[torch.Tensor, torch.Tensor]:  # [B, Ci, H, W], [Ci]
    """Compute the input gradient with cuDNN, and mask and bias gradient of the layer below in place."""
    dx = F.conv2d(dz, weight, stride=2, padding=2)
    dx = _launch.channels_last("dx", dx, tuple(dx.shape))
    if below is None:
        return dx, dx.new_empty(0, dtype=torch.float32)
    return dx, activation_backward_into(dx, dx, below, negative_slope, config)


def activation_backward_into(
    dz: torch.Tensor,  # [B, C, H, W]
    gradient: torch.Tensor,  # [B, C, H, W]
    y: torch.Tensor,  # [B, C, H, W]
    negative_slope: float | None,
    config: Config,
) -> torch.Tensor:  # [C] float32
    """Write the gradient before a leaky ReLU into `dz` and return its sum over images and pixels."""
    pixels, channels = _launch.pixel_count(y), y.shape[1]
    unit, (block_m, block_n) = math.gcd(channels, 16), config.block
    programs = max(1, min(PROGRAMS, triton.cdiv(pixels, block_m)))
    bias_parts = _launch.allocate((programs, channels), torch.float32, y.device)
    _launch.launch(
        activation_backward_kernel,
        (programs, triton.cdiv(channels, block_n)),
        *(gradient, y, dz, bias_parts, pixels, channels // unit),
        UNIT=unit, SLOPE=_launch.slope(negative_slope), BM=block_m, BN=block_n,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return bias_parts.sum(0)
