"""Compute deep layers on the CPU as matrix products, for feature maps much smaller than the weights.

A weight (Ci, Co, 5, 5) in channels_last memory format is a matrix (Ci, 25 · Co), which is read once without reordering.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F


def forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, negative_slope: float | None
) -> torch.Tensor:
    """Compute `torch_passes.forward` in float32."""
    batch, _, height, width = x.shape
    out_channels = weight.shape[1]
    products = (_pixels(x) @ _matrix(weight)).view(batch, height, width, 5, 5, out_channels)
    # With two extra rows and columns on every side for values outside the output.
    y = x.new_zeros(out_channels) if bias is None else bias
    y = y.expand(batch, 2 * height + 4, 2 * width + 4, out_channels).contiguous()
    for ky, kx in itertools.product(range(5), repeat=2):
        y[:, ky : ky + 2 * height : 2, kx : kx + 2 * width : 2] += products[:, :, :, ky, kx]
    y = y[:, 2:-2, 2:-2].permute(0, 3, 1, 2)
    return y if negative_slope is None else F.leaky_relu(y, negative_slope)


def input_gradient(dz: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Compute the gradient of the layer's input, (B, Ci, H, W) in channels_last."""
    batch, _, height, width = dz.shape
    dx = _windows(dz) @ _matrix(weight).T
    return dx.view(batch, height // 2, width // 2, -1).permute(0, 3, 1, 2)


def wgrad(x: torch.Tensor, dz: torch.Tensor) -> torch.Tensor:
    """Compute `torch_passes.wgrad` in channels_last."""
    return (_pixels(x).T @ _windows(dz)).view(x.shape[1], 5, 5, dz.shape[1]).permute(0, 3, 1, 2)


def _pixels(x: torch.Tensor) -> torch.Tensor:
    """Return maps (B, Ci, H, W) as (B · H · W, Ci)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _windows(dz: torch.Tensor) -> torch.Tensor:
    """Return (B · H · W, 25 · Co), the 5 × 5 window of dz (B, Co, 2H, 2W) that each pixel of x contributes to."""
    padded = F.pad(dz.permute(0, 2, 3, 1), (0, 0, 2, 2, 2, 2))
    return padded.unfold(1, 5, 2).unfold(2, 5, 2).permute(0, 1, 2, 4, 5, 3).reshape(-1, 25 * dz.shape[1])


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    """Return the weight as (Ci, 25 · Co), without a copy if it is channels_last."""
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
