"""Deep layers on a CPU as matrix products, for maps far smaller than kernels: these are read once, as they lie.

With the maps turned by 180°, the layer is a transposed convolution with its own weight, neither flipped nor reordered,
padding 1 and one row and column too many. Its matrix (Ci, Co · 25) is the memory of `preimage.nn.UpConv2d`'s weight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, negative_slope: float | None
) -> torch.Tensor:
    """As `plain.forward`, in float32."""
    batch, _, height, width = x.shape
    products = (_pixels(x) @ _matrix(weight)).view(batch, height * width, -1).transpose(1, 2)
    size = (2 * height + 1, 2 * width + 1)
    y = F.fold(products, size, 5, stride=2, padding=1)[:, :, :-1, :-1].flip(2, 3)
    if bias is not None:
        y += bias[:, None, None]
    if negative_slope is not None:
        F.leaky_relu_(y, negative_slope)
    return y


def input_gradient(dz: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The gradient of the layer's input, (B, Ci, H, W) in channels_last."""
    batch, _, height, width = dz.shape
    dx = _windows(dz) @ _matrix(weight).T
    return dx.view(batch, height // 2, width // 2, -1).permute(0, 3, 1, 2).flip(2, 3)


def wgrad(x: torch.Tensor, dz: torch.Tensor) -> torch.Tensor:
    """As `plain.wgrad`; in memory (Ci, Co, 5, 5)."""
    return (_pixels(x).T @ _windows(dz)).view(x.shape[1], dz.shape[1], 5, 5).transpose(0, 1)


def turned_maps(dz: torch.Tensor) -> torch.Tensor:
    """`dz` turned around, contiguous, with the row and the column that the asymmetric padding then lacks."""
    return F.pad(dz.contiguous().flip(2, 3), (0, 1, 0, 1))


def _pixels(x: torch.Tensor) -> torch.Tensor:
    """(B · H · W, Ci), every image turned around."""
    return x.flip(2, 3).permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _windows(dz: torch.Tensor) -> torch.Tensor:
    """(B · H · W, Co · 25): what every pixel of x, turned around, has contributed to."""
    columns = F.unfold(turned_maps(dz), 5, stride=2, padding=1)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    return weight.transpose(0, 1).reshape(weight.shape[1], -1)
