"""Every pass of the up-convolution through torch alone: the reference of the kernels, and what runs where they do not.

Maps are (B, C, H, W) in any memory format; weights (Ci, Co, 5, 5), as ``conv_transpose2d`` takes them. Each value of x
is added to a window of y, times the weight,

    y[2i + ky - 2, 2j + kx - 2] += x[i, j] · weight[ky, kx],

so that the gradient of x is a convolution of stride 2 of y's gradient with the same weight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def forward(
    x: torch.Tensor,  # [B, Ci, H, W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    bias: torch.Tensor | None,  # [Co]
    negative_slope: float | None,
) -> torch.Tensor:  # [B, Co, 2H, 2W]
    """The layer: transposed convolution, bias, leaky ReLU (``None``: none)."""
    y = F.conv_transpose2d(x, weight, bias, stride=2, padding=2, output_padding=1)
    return y if negative_slope is None else F.leaky_relu(y, negative_slope)


def dgrad(
    dz: torch.Tensor,  # [B, Co, 2H, 2W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    below: torch.Tensor | None,  # [B, Ci, H, W]
    negative_slope: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # [B, Ci, H, W], [Ci]
    """The gradient of the layer's input, from `dz`, the gradient before its own leaky ReLU.

    Where the layer's input came out of another leaky ReLU, give it as `below` with that ReLU's `negative_slope`: the
    gradient is then that of before the ReLU (whose mask is the sign of its output; zero takes the slope). The second
    result is the bias gradient of the layer below, the sum over images and pixels, float32; empty without `below`.
    """
    dx = F.conv2d(dz, weight, stride=2, padding=2)
    return after_dgrad(dx, below, negative_slope)


def after_dgrad(
    dx: torch.Tensor, below: torch.Tensor | None, negative_slope: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two results of `dgrad` from the gradient of the layer's input."""
    if below is None:
        return dx, dx.new_empty(0, dtype=torch.promote_types(dx.dtype, torch.float32))
    if negative_slope is not None:
        dx = masked(dx, below, negative_slope)
    return dx, bias_gradient(dx)


def wgrad(
    x: torch.Tensor,  # [B, Ci, H, W]
    dz: torch.Tensor,  # [B, Co, 2H, 2W]
) -> torch.Tensor:  # [Ci, Co, 5, 5]
    """The gradient of the weight, in the maps' dtype: dw[ky, kx] = sum of x[i, j] · dz[2i + ky - 2, 2j + kx - 2]."""
    shape = (x.shape[1], dz.shape[1], 5, 5)
    stand_in = x.new_empty(1).expand(shape)  # only its shape is read
    _, dw, _ = torch.ops.aten.convolution_backward(
        dz, x, stand_in, None, [2, 2], [2, 2], [1, 1], True, [1, 1], 1, [False, True, False]
    )
    return dw


def image_backward(
    x: torch.Tensor,  # [B, Ci, H, W]
    dz: torch.Tensor,  # [B, Co, 2H, 2W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    negative_slope: float | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # [B, Ci, H, W], [Ci], [Ci, Co, 5, 5]
    """`dgrad` (with x as `below`) and `wgrad` at once: for a layer of few outputs, an image."""
    return *dgrad(dz, weight, x, negative_slope), wgrad(x, dz)


def image_distance(
    y: torch.Tensor,  # [B, C, H, W]
    target: torch.Tensor,  # [B, C, H, W] uint8
    mean: torch.Tensor,  # [C]
) -> torch.Tensor:  # [B]
    """‖y + mean - target / 255‖₂ of every image, float32."""
    return torch.linalg.vector_norm(_difference(y, target, mean), dim=(1, 2, 3))


def image_distance_backward(
    y: torch.Tensor,  # [B, C, H, W]
    target: torch.Tensor,  # [B, C, H, W] uint8
    mean: torch.Tensor,  # [C]
    scale: torch.Tensor,  # [B] float32
) -> torch.Tensor:  # [B, C, H, W], y's dtype
    """(y + mean - target / 255) · scale, each image with its own: the gradient of y, scale = gradient / distance."""
    return (_difference(y, target, mean) * scale[:, None, None, None]).to(y.dtype)


def _difference(y: torch.Tensor, target: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return y.float() + mean.float()[:, None, None] - target.float() / 255


def distance_backward(
    x: torch.Tensor,  # [B, Ci, H, W]
    y: torch.Tensor,  # [B, Co, 2H, 2W], the layer's output, without activation
    target: torch.Tensor,  # [B, Co, 2H, 2W] uint8
    mean: torch.Tensor,  # [Co]
    scale: torch.Tensor,  # [B] float32
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    negative_slope: float | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # [B, Ci, H, W], [Ci], [Ci, Co, 5, 5], [Co]
    """`image_backward` of the gradient that `image_distance_backward` tells, and the layer's own bias gradient."""
    dz = image_distance_backward(y, target, mean, scale)
    return *image_backward(x, dz, weight, negative_slope), bias_gradient(dz)


def masked(gradient: torch.Tensor, output: torch.Tensor, negative_slope: float) -> torch.Tensor:
    """The gradient before a leaky ReLU from that after it, and its output."""
    return torch.ops.aten.leaky_relu_backward(gradient, output, negative_slope, True)


def bias_gradient(dz: torch.Tensor) -> torch.Tensor:
    """(C,) float32 (float64 of float64): the sum over images and pixels."""
    return dz.sum(dim=(0, 2, 3), dtype=torch.promote_types(dz.dtype, torch.float32))
