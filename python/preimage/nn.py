"""Layers that networks of one's own can use."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import nn

from preimage.ops.upconv import upconv, upconv_chain, upconv_chain_distance


class UpConv2d(nn.Module):
    """Up-convolution ×2: zero-insertion, 5×5 convolution, bias, optional leaky ReLU, in one pass.

    Dosovitskiy & Brox, "Inverting Visual Representations with Convolutional Networks" (CVPR 2016), section 3.
    Maps (B, in_channels, H, W) become (B, out_channels, 2H, 2W), see `preimage.upconv`. Several in a row: `UpConvChain`.

    Args:
        in_channels: Ci.
        out_channels: Co.
        negative_slope: slope of the leaky ReLU below zero; ``None`` for none (a network's last layer).

    Attributes:
        weight: (Co, Ci, 5, 5), in the orientation of ``conv2d`` on the zero-inserted input, in memory in the order
            (Ci, Co, 5, 5), in which its gradient comes. He-initialised for the 25/4 taps that meet a value rather
            than an inserted zero; a last layer starts ten times smaller, so that training begins near the mean image.
        bias: (Co,), zeros at first.
    """

    def __init__(self, in_channels: int, out_channels: int, negative_slope: float | None = 0.2) -> None:
        super().__init__()
        if in_channels < 1 or out_channels < 1:
            raise ValueError(f"channels start at 1, got {in_channels} in and {out_channels} out")
        self.negative_slope = negative_slope
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels, 5, 5).transpose(0, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        gain = math.sqrt(2 / (1 + negative_slope**2)) if negative_slope is not None else 0.1
        nn.init.normal_(self.weight, std=gain / math.sqrt(in_channels * 25 / 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return upconv(x, self.weight, self.bias, self.negative_slope)

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weight.shape[:2]
        return f"{in_channels}, {out_channels}, negative_slope={self.negative_slope}"


class UpConvChain(nn.Sequential):
    """Up-convolutions in a row with one backward for all of them, see `preimage.ops.upconv.upconv_chain`.

    It keeps for the backward only what the layers put out, and spends no pass on their activations. The same network,
    parameters and names as an ``nn.Sequential`` of the layers.

    Args:
        layers: each with as many inputs as the one before has outputs.
    """

    def __init__(self, *layers: UpConv2d) -> None:
        if not layers:
            raise ValueError("a chain has at least one layer")
        super().__init__(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, H, W) become (B, the last layer's outputs, 2^L · H, 2^L · W)."""
        return upconv_chain(x, *self._parameters_of_layers())

    def distance(self, x: torch.Tensor, target: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """(B,) distances ‖forward(x) + mean - target / 255‖₂, see `preimage.ops.upconv.upconv_chain_distance`."""
        return upconv_chain_distance(x, *self._parameters_of_layers(), target, mean)

    def _parameters_of_layers(self) -> tuple[list[torch.Tensor], list[torch.Tensor | None], list[float | None]]:
        layers = list(cast("Iterator[UpConv2d]", iter(self)))
        return [layer.weight for layer in layers], [layer.bias for layer in layers], [x.negative_slope for x in layers]
