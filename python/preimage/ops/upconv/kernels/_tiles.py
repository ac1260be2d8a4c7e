"""Load tiles of maps and weights, and apply bias, activation and mask; functions shared by the kernels.

m is the index of a pixel at the input resolution in all images, so that a tile can contain several small maps; row =
m // W is the index of a row in all images, i = row % H, j = m % W. Channels are masked only if a block does not divide
them.
"""
# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def input_tile(x, m, i, j, valid, dy, dx, channel, height, width, CI: tl.constexpr, BK: tl.constexpr):
    """Load [BM, BK], channels from `channel` on of the pixels shifted by (dy, dx); zero outside their image."""
    inside = valid & (i + dy >= 0) & (i + dy < height) & (j + dx >= 0) & (j + dx < width)
    k = tl.arange(0, BK)
    pointers = x + (m[:, None] * CI + k[None, :]) + ((dy * width + dx) * CI + channel)
    if CI % BK == 0:
        tile = tl.load(pointers, mask=inside[:, None], other=0.0)
    else:
        tile = tl.load(pointers, mask=inside[:, None] & (channel + k < CI)[None, :], other=0.0)
    return tile


@triton.jit
def weight_tile(
    weight, tap, channel, columns,
    CI: tl.constexpr, CO: tl.constexpr, K_STRIDE: tl.constexpr, N_STRIDE: tl.constexpr, TAP_STRIDE: tl.constexpr,
    BK: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Load [BK, BN], the weights of the tap 5 ky + kx for input channels from `channel` on and channels `columns`."""
    k = tl.arange(0, BK)
    pointers = weight + (k[:, None] * K_STRIDE + columns[None, :] * N_STRIDE) + (tap * TAP_STRIDE + channel * K_STRIDE)
    if CI % BK == 0:
        tile = tl.load(pointers) if CO % BN == 0 else tl.load(pointers, mask=(columns < CO)[None, :], other=0.0)
    else:
        tile = tl.load(pointers, mask=(channel + k < CI)[:, None] & (columns < CO)[None, :], other=0.0)
    return tile


@triton.jit
def activated(total, bias, channels, valid, HAS_BIAS: tl.constexpr, SLOPE: tl.constexpr):
    """Apply bias and leaky ReLU to the float32 sums of columns with `channels`, where `valid`."""
    if HAS_BIAS:
        total += tl.load(bias + channels, mask=valid, other=0.0).to(tl.float32)[None, :]
    if SLOPE != 1.0:
        total = tl.where(total > 0, total, total * SLOPE)
    return total


@triton.jit
def masked_by(gradient, below, offsets, mask, SLOPE: tl.constexpr):
    """Return the gradient before the leaky ReLU with the output `below`; zero takes the slope, as in torch."""
    value = tl.load(below + offsets, mask=mask, other=0.0)
    return tl.where(value.to(tl.float32) > 0, gradient, gradient * SLOPE)
