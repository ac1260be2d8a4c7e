"""The up-convolution told plainly: zeros between the pixels, then a convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def upconv(
    x: torch.Tensor,  # [B, Ci, H, W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    bias: torch.Tensor | None = None,  # [Co]
    negative_slope: float | None = None,
) -> torch.Tensor:  # [B, Co, 2H, 2W]
    """Up-convolution of Dosovitskiy & Brox (CVPR 2016), section 3, in any floating dtype.

    Every value goes to the top-left of a 2×2 block of zeros; a 5×5 convolution (with the kernel turned by 180°, where
    ``conv2d`` computes a cross-correlation) with padding 2 follows; then, unless ``negative_slope`` is ``None``, a
    leaky ReLU. The weight is that of an ``nn.ConvTranspose2d`` of stride 2, padding 2 and output padding 1.
    """
    batch, channels, height, width = x.shape
    spread = x.new_zeros(batch, channels, 2 * height, 2 * width)
    spread[:, :, ::2, ::2] = x
    y = F.conv2d(spread, weight.flip(2, 3).transpose(0, 1), bias, padding=2)
    return y if negative_slope is None else F.leaky_relu(y, negative_slope)
