"""Layers that networks of one's own can use."""

from __future__ import annotations

import math

import torch
from torch import nn

from preimage.ops.upconv import upconv


class UpConv2d(nn.Module):
    """Up-convolution ×2: zero-insertion, 5×5 convolution, bias, optional leaky ReLU.

    Dosovitskiy & Brox, "Inverting Visual Representations with Convolutional Networks" (CVPR 2016), section 3.
    Maps (B, in_channels, H, W) become (B, out_channels, 2H, 2W).

    Args:
        in_channels: Ci.
        out_channels: Co.
        negative_slope: slope of the leaky ReLU below zero; ``None`` for none (a network's last layer).

    Attributes:
        weight: (Co, Ci, 5, 5), in the orientation of ``conv2d`` on the zero-inserted input. He-initialised
            for the 25/4 taps that meet a value rather than an inserted zero; a last layer starts ten times
            smaller, so that training begins near the mean image.
        bias: (Co,), zeros at first.
    """

    def __init__(self, in_channels: int, out_channels: int, negative_slope: float | None = 0.2) -> None:
        super().__init__()
        if in_channels < 1 or out_channels < 1:
            raise ValueError(f"channels start at 1, got {in_channels} in and {out_channels} out")
        self.negative_slope = negative_slope
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 5, 5))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        gain = math.sqrt(2 / (1 + negative_slope**2)) if negative_slope is not None else 0.1
        nn.init.normal_(self.weight, std=gain / math.sqrt(in_channels * 25 / 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return upconv(x, self.weight, self.bias, self.negative_slope)

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weight.shape[:2]
        return f"{in_channels}, {out_channels}, negative_slope={self.negative_slope}"
