"""Reference definition of the up-convolution: zero insertion followed by a convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def upconv(
    x: torch.Tensor,  # [B, Ci, H, W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    bias: torch.Tensor | None = None,  # [Co]
    negative_slope: float | None = 0.2,
) -> torch.Tensor:  # [B, Co, 2H, 2W]
    """Compute the up-convolution of Dosovitskiy & Brox (CVPR 2016), section 3, in any floating-point dtype.

    Every value becomes the upper left pixel of a 2×2 block of zeros. A 5×5 convolution with padding 2 follows (the
    kernel is flipped, because ``conv2d`` is a cross-correlation), and a leaky ReLU unless ``negative_slope`` is
    ``None``. The weight is that of ``nn.ConvTranspose2d`` with stride 2, padding 2 and output padding 1.
    """
    batch, channels, height, width = x.shape
    spread = x.new_zeros(batch, channels, 2 * height, 2 * width)
    spread[:, :, ::2, ::2] = x
    y = F.conv2d(spread, weight.flip(2, 3).transpose(0, 1), bias, padding=2)
    return y if negative_slope is None else F.leaky_relu(y, negative_slope)
