"""Launch the forward kernels, which have the same parameters."""

from __future__ import annotations

from typing import Any

import torch
import triton

from preimage.ops.upconv.kernel_configs import Config
from preimage.ops.upconv.kernels import _launch


def launch_forward(
    kernel: Any,
    x: torch.Tensor,  # [B, Ci, H, W]
    matrix: tuple[torch.Tensor, int, int, int],
    bias: torch.Tensor | None,  # [Co]
    negative_slope: float | None,
    config: Config,
    *,
    out_channels: int,
    columns: int,
    phases: tuple[int, ...] = (),
) -> torch.Tensor:  # [B, Co, 2H, 2W]
    """Launch one program for every tile of pixels × `columns`, times `phases` for kernels of one phase per program.

    `matrix` is the weight as the kernel reads it, and its strides in elements: input channels, columns and taps.
    """
    _, in_channels, height, width = x.shape
    block_m, block_n, block_k = config.block
    pixels = _launch.pixel_count(x)
    y = _launch.new_map(x, out_channels, 2 * height, 2 * width)
    weight, k_stride, n_stride, tap_stride = matrix
    _launch.launch(
        kernel,
        (triton.cdiv(pixels, block_m) * triton.cdiv(columns, block_n), *phases),
        *(x, weight, x if bias is None else bias, y, pixels, height, width),
        CI=in_channels, CO=out_channels, K_STRIDE=k_stride, N_STRIDE=n_stride, TAP_STRIDE=tap_stride,
        HAS_BIAS=bias is not None, SLOPE=_launch.slope(negative_slope), PRECISION=_launch.precision(x.dtype),
        BM=block_m, BN=block_n, BK=block_k, num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return y


def launch_with_weight(
    kernel: Any,
    x: torch.Tensor,  # [B, Ci, H, W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    bias: torch.Tensor | None,  # [Co]
    negative_slope: float | None,
    config: Config,
    *,
    columns: int = 1,
    phases: tuple[int, ...] = (),
) -> torch.Tensor:  # [B, Co, 2H, 2W]
    """Launch a kernel that reads the weight as it lies (TF32: a transposed copy), with `columns` per output channel."""
    sizes = {"out_channels": weight.shape[1], "columns": columns * weight.shape[1]}
    matrix = _launch.forward_weight(weight)
    return launch_forward(kernel, x, matrix, bias, negative_slope, config, **sizes, phases=phases)
