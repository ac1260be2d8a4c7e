"""Compute the passes of the up-convolution with Triton kernels. Importing this package requires Triton.

Parameters are those in `torch_passes`, followed by the configuration. Maps are float32, bfloat16 or float16 on a CUDA
device (on the CPU in Triton's interpreter). Maps and weights are copied unless they are channels_last, as all results
are. Sums are float32, in an order fixed by the configuration, so results are reproducible. All functions raise
``ValueError`` for maps of more than 2^31 - 1 elements and shapes that do not match, and ``TypeError`` for dtypes that
do not match.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from preimage.ops.upconv.kernel_configs import CUDNN, Config
from preimage.ops.upconv.kernels import _launch
from preimage.ops.upconv.kernels._launch import poisoned
from preimage.ops.upconv.kernels.cudnn import activation_backward_into, dgrad_cudnn, forward_cudnn
from preimage.ops.upconv.kernels.dgrad import dgrad_taps
from preimage.ops.upconv.kernels.dgrad_window import dgrad_window
from preimage.ops.upconv.kernels.forward_all_phases import forward_all_phases
from preimage.ops.upconv.kernels.forward_phase import forward_phase
from preimage.ops.upconv.kernels.forward_row_pair import forward_row_pair
from preimage.ops.upconv.kernels.forward_subpixel import forward_subpixel
from preimage.ops.upconv.kernels.image_backward import image_backward_of_distance as _of_distance
from preimage.ops.upconv.kernels.image_backward import image_backward_of_gradient as _of_gradient
from preimage.ops.upconv.kernels.image_distance import image_distance
from preimage.ops.upconv.kernels.wgrad import wgrad_taps
from preimage.ops.upconv.kernels.wgrad_window import wgrad_window

__all__ = [
    "activation_backward",
    "dgrad",
    "distance_backward",
    "forward",
    "image_backward",
    "image_distance",
    "poisoned",
    "wgrad",
]

_Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, float | None, Config], torch.Tensor]
_Dgrad = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor | None, float | None, Config], tuple[torch.Tensor, torch.Tensor]
]
_Wgrad = Callable[[torch.Tensor, torch.Tensor, Config], torch.Tensor]

_FORWARD: dict[str, _Forward] = {
    "phase": forward_phase,
    "all_phases": forward_all_phases,
    "row_pair": forward_row_pair,
    "subpixel": forward_subpixel,
    "cudnn": forward_cudnn,
}
_DGRAD: dict[str, _Dgrad] = {"dgrad": dgrad_taps, "dgrad_window": dgrad_window, "dgrad_cudnn": dgrad_cudnn}
_WGRAD: dict[str, _Wgrad] = {"wgrad": wgrad_taps, "wgrad_window": wgrad_window}


def forward(
    x: torch.Tensor,  # [B, Ci, H, W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    bias: torch.Tensor | None,  # [Co]
    negative_slope: float | None,
    config: Config,
) -> torch.Tensor:  # [B, Co, 2H, 2W]
    """Compute `torch_passes.forward` by "phase", "all_phases", "row_pair", "cudnn" or "subpixel" (images)."""
    weight = _launch.checked_weight(weight, x.shape[1], x.dtype)
    x = _launch.channels_last("x", x, tuple(x.shape))
    bias = None if bias is None else _launch.vector("the bias", bias, weight.shape[1])
    return _FORWARD[config.kernel](x, weight, bias, negative_slope, config)


def dgrad(
    dz: torch.Tensor,  # [B, Co, 2H, 2W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    below: torch.Tensor | None,  # [B, Ci, H, W]
    negative_slope: float | None,
    config: Config,
) -> tuple[torch.Tensor, torch.Tensor]:  # [B, Ci, H, W], [Ci]
    """Compute `torch_passes.dgrad` by "dgrad", "dgrad_window" or "dgrad_cudnn"; no sums without `below`."""
    weight = _launch.checked_weight(weight, weight.shape[0], dz.dtype)
    batch, _, height, width = dz.shape
    dz = _launch.channels_last("dz", dz, (batch, weight.shape[1], height // 2 * 2, width // 2 * 2))
    if below is not None:
        below = _launch.channels_last("below", below, (batch, weight.shape[0], height // 2, width // 2))
    return _DGRAD[config.kernel](dz, weight, below, negative_slope, config)


def wgrad(
    x: torch.Tensor,  # [B, Ci, H, W]
    dz: torch.Tensor,  # [B, Co, 2H, 2W]
    config: Config,
) -> torch.Tensor:  # [Ci, Co, 5, 5]
    """Compute `torch_passes.wgrad` by "wgrad" or "wgrad_window"."""
    return _WGRAD[config.kernel](*_pair(x, dz), config)


def image_backward(
    x: torch.Tensor,  # [B, Ci, H, W]
    dz: torch.Tensor,  # [B, Co, 2H, 2W]
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    negative_slope: float | None,
    config: Config,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # [B, Ci, H, W], [Ci], [Ci, Co, 5, 5]
    """Compute `torch_passes.image_backward` by "image_backward"."""
    weight = _launch.checked_weight(weight, x.shape[1], x.dtype)
    return _of_gradient(*_pair(x, dz, weight), weight, negative_slope, config)


def distance_backward(
    x: torch.Tensor,  # [B, Ci, H, W]
    y: torch.Tensor,  # [B, Co, 2H, 2W], without activation
    target: torch.Tensor,  # [B, Co, 2H, 2W] uint8
    mean: torch.Tensor,  # [Co]
    scale: torch.Tensor,  # [B] float32
    weight: torch.Tensor,  # [Ci, Co, 5, 5]
    negative_slope: float | None,
    config: Config,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # [B, Ci, H, W], [Ci], [Ci, Co, 5, 5], [Co]
    """Compute `torch_passes.distance_backward` by "image_backward", without storing the gradient of the image."""
    weight = _launch.checked_weight(weight, x.shape[1], x.dtype)
    x, y = _pair(x, y, weight)
    target = _launch.channels_last("the target", target, tuple(y.shape))
    if target.dtype != torch.uint8:
        raise TypeError(f"target must be uint8, got {target.dtype}")
    mean, scale = _launch.vector("the mean", mean, y.shape[1]), _launch.vector("the scale", scale, y.shape[0])
    return _of_distance(x, y, target, mean, scale, weight, negative_slope, config)


def activation_backward(
    gradient: torch.Tensor,  # [B, C, H, W]
    y: torch.Tensor,  # [B, C, H, W]
    negative_slope: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # [B, C, H, W], [C]
    """Compute `torch_passes.activation_backward`."""
    y = _launch.channels_last("y", y, tuple(y.shape))
    gradient = _launch.channels_last("the gradient", gradient, tuple(y.shape))
    dz = _launch.new_map(y, *y.shape[1:])
    return dz, activation_backward_into(dz, gradient, y, negative_slope, CUDNN["dgrad"])


def _pair(x: torch.Tensor, dz: torch.Tensor, weight: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    batch, _, height, width = x.shape
    out_channels = dz.shape[1] if weight is None else weight.shape[1]
    if x.dtype != dz.dtype:
        raise TypeError(f"maps must have one dtype, got {x.dtype} and {dz.dtype}")
    return (
        _launch.channels_last("x", x, tuple(x.shape)),
        _launch.channels_last("the layer's output", dz, (batch, out_channels, 2 * height, 2 * width)),
    )
