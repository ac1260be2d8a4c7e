"""Compute the passes of the up-convolution with torch functions: the reference of the kernels, and the fallback.

Maps are (B, C, H, W) in any memory format, weights (Ci, Co, 5, 5) as in ``conv_transpose2d``. Each value of x is
multiplied by the weight and added to a window of y,

    y[2i + ky - 2, 2j + kx - 2] += x[i, j] · weight[ky, kx],

so the gradient of x is the convolution of stride 2 of y's gradient with the same weight.
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
    """Compute the layer: transposed convolution, bias, and leaky ReLU unless `negative_slope` is ``None``."""
    y = F.conv_transpose2d(x, weight, bias, stride=2, padding=2, output_padding=1)
    return y if negative_slope is None else F.leaky_relu(y, negative_slope)


def dgrad(
    dz: torch.Tensor,  # [B, Co, 2H, 2W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    below: torch.Tensor | None,  # [B, Ci, H, W]
    negative_slope: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # [B, Ci, H, W], [Ci]
    """Compute the gradient of the layer's input from `dz`, the gradient before its leaky ReLU.

    Args:
        dz: Gradient before the layer's leaky ReLU.
        weight: Weight of the layer.
        below: Input of the layer, if it is the output of a layer below, whose leaky ReLU is then also differentiated.
            The mask is the sign of the output; zero takes the slope.
        negative_slope: Slope of the leaky ReLU of the layer below, or ``None``.

    Returns:
        Gradient of the input, before the leaky ReLU of the layer below, and the bias gradient of the layer below, its
        sum over images and pixels, float32; empty if `below` is ``None``.
    """
    dx = F.conv2d(dz, weight, stride=2, padding=2)
    return after_dgrad(dx, below, negative_slope)


def after_dgrad(
    dx: torch.Tensor, below: torch.Tensor | None, negative_slope: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two results of `dgrad` for the gradient of the layer's input."""
    if below is None:
        return dx, dx.new_empty(0, dtype=torch.promote_types(dx.dtype, torch.float32))
    if negative_slope is not None:
        dx = masked(dx, below, negative_slope)
    return dx, bias_gradient(dx)


def wgrad(
    x: torch.Tensor,  # [B, Ci, H, W]
    dz: torch.Tensor,  # [B, Co, 2H, 2W]
) -> torch.Tensor:  # [Ci, Co, 5, 5]
    """Compute the weight gradient, dw[ky, kx] = Σ x[i, j] · dz[2i + ky - 2, 2j + kx - 2], in the dtype of the maps."""
    shape = (x.shape[1], dz.shape[1], 5, 5)
    placeholder = x.new_empty(1).expand(shape)  # only its shape is used
    _, dw, _ = torch.ops.aten.convolution_backward(
        dz, x, placeholder, None, [2, 2], [2, 2], [1, 1], True, [1, 1], 1, [False, True, False]
    )
    return dw


def image_backward(
    x: torch.Tensor,  # [B, Ci, H, W]
    dz: torch.Tensor,  # [B, Co, 2H, 2W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    negative_slope: float | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # [B, Ci, H, W], [Ci], [Ci, Co, 5, 5]
    """Compute `dgrad` (with x as `below`) and `wgrad` together, for layers of few output channels such as images."""
    return *dgrad(dz, weight, x, negative_slope), wgrad(x, dz)


def image_distance(
    y: torch.Tensor,  # [B, C, H, W]
    target: torch.Tensor,  # [B, C, H, W] uint8
    mean: torch.Tensor,  # [C]
) -> torch.Tensor:  # [B]
    """Compute ‖y + mean - target / 255‖₂ of each image, in float32."""
    return torch.linalg.vector_norm(_difference(y, target, mean), dim=(1, 2, 3))


def image_distance_backward(
    y: torch.Tensor,  # [B, C, H, W]
    target: torch.Tensor,  # [B, C, H, W] uint8
    mean: torch.Tensor,  # [C]
    scale: torch.Tensor,  # [B] float32
) -> torch.Tensor:  # [B, C, H, W], y's dtype
    """Compute the gradient of y in `image_distance`, (y + mean - target / 255) · scale.

    `scale` is the gradient of each distance divided by the distance.
    """
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
    """Compute `image_backward` for the gradient from `image_distance_backward`, and the layer's bias gradient."""
    dz = image_distance_backward(y, target, mean, scale)
    return *image_backward(x, dz, weight, negative_slope), bias_gradient(dz)


def masked(gradient: torch.Tensor, output: torch.Tensor, negative_slope: float) -> torch.Tensor:
    """Compute the gradient before a leaky ReLU from the gradient after it and its output."""
    return torch.ops.aten.leaky_relu_backward(gradient, output, negative_slope, True)


def activation_backward(
    gradient: torch.Tensor,  # [B, C, H, W]
    y: torch.Tensor,  # [B, C, H, W]
    negative_slope: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # [B, C, H, W], [C]
    """Compute `masked` for the output y of a layer, and `bias_gradient` of the result."""
    dz = masked(gradient, y, negative_slope)
    return dz, bias_gradient(dz)


def bias_gradient(dz: torch.Tensor) -> torch.Tensor:
    """Compute the bias gradient (C,), the sum over images and pixels, in float32 or float64."""
    return dz.sum(dim=(0, 2, 3), dtype=torch.promote_types(dz.dtype, torch.float32))
