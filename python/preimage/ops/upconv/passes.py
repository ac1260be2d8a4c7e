"""The passes of the layer: each goes to the device's fastest arithmetic.

On CUDA that is one of the Triton kernels or torch's own convolution, as `choice` has it for the architecture; on the
CPU what `cpu` says; anywhere else, or with the environment variable ``PREIMAGE_UPCONV=plain``, torch alone.
They know no gradients: `chain` has them. `registered` makes ops of them, ``torch.ops.preimage.upconv*``.
"""

import functools
import importlib
import os
from typing import Any

import torch
from torch import Tensor

from preimage.ops._triton import has_triton
from preimage.ops.upconv import cpu_passes, kernel_choice, kernel_configs, torch_passes
from preimage.ops.upconv.kernel_configs import Config

# `registered` makes schemas of the annotations: they are no strings in this file.


def upconv(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float | None, repeated: bool) -> Tensor:
    """`torch_passes.forward`. `repeated`: the same weight will come again, unchanged, as in inference."""
    x = channels_last(x)
    if config := _config("forward", x, *weight.shape[:2]):
        return _kernels().forward(x, weight, bias, negative_slope, config)
    if _on_cpu(x):
        return channels_last(cpu_passes.forward(x, weight, bias, negative_slope, repeated=repeated))
    return channels_last(torch_passes.forward(x, weight, bias, negative_slope))


def upconv_dgrad(
    dz: Tensor, weight: Tensor, below: Tensor | None, negative_slope: float | None
) -> tuple[Tensor, Tensor]:
    """`torch_passes.dgrad`."""
    dz = channels_last(dz)
    if config := _config("dgrad", dz, *weight.shape[:2]):
        return _kernels().dgrad(dz, weight, below, negative_slope, config)
    dx, bias_gradient = (cpu_passes if _on_cpu(dz) else torch_passes).dgrad(dz, weight, below, negative_slope)
    return channels_last(dx), bias_gradient


def upconv_wgrad(x: Tensor, dz: Tensor) -> Tensor:
    """`torch_passes.wgrad`."""
    x, dz = channels_last(x), channels_last(dz)
    if config := _config("wgrad", x, x.shape[1], dz.shape[1]):
        return _kernels().wgrad(x, dz, config)
    return as_kept((cpu_passes if _on_cpu(x) else torch_passes).wgrad(x, dz))


def upconv_image_backward(
    x: Tensor, dz: Tensor, weight: Tensor, negative_slope: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`torch_passes.image_backward`."""
    x, dz = channels_last(x), channels_last(dz)
    if config := _config("image_backward", x, *weight.shape[:2]):
        return _kernels().image_backward(x, dz, weight, negative_slope, config)
    return *upconv_dgrad(dz, weight, x, negative_slope), upconv_wgrad(x, dz)


def image_distance(y: Tensor, target: Tensor, mean: Tensor) -> Tensor:
    """`torch_passes.image_distance`."""
    y, target = channels_last(y), channels_last(target)
    if _fits_image_kernels(y):
        return _kernels().image_distance(y, target, mean)
    return torch_passes.image_distance(y, target, mean)


def upconv_distance_backward(
    x: Tensor,
    y: Tensor,
    target: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Tensor,
    negative_slope: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`torch_passes.distance_backward`."""
    x, y, target = channels_last(x), channels_last(y), channels_last(target)
    if config := _config("distance_backward", x, *weight.shape[:2]):
        return _kernels().distance_backward(x, y, target, mean, scale, weight, negative_slope, config)
    dz = channels_last(torch_passes.image_distance_backward(y, target, mean, scale))
    return *upconv_image_backward(x, dz, weight, negative_slope), torch_passes.bias_gradient(dz)


def channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def as_kept(dw: Tensor) -> Tensor:
    """A weight's gradient in memory as the weight is best kept: channels_last; on CUDA (5, 5, Ci, Co)."""
    if dw.is_cuda:
        return dw.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    return channels_last(dw)


def plain_only() -> bool:
    """Does the environment variable ``PREIMAGE_UPCONV`` ask for torch alone?"""
    wanted = os.environ.get("PREIMAGE_UPCONV", "auto")
    if wanted not in {"auto", "plain"}:
        raise ValueError(f"PREIMAGE_UPCONV is auto or plain, got {wanted!r}")
    return wanted == "plain"


def _on_cpu(maps: Tensor) -> bool:
    """Real memory of a CPU? What is traced for torch.compile is told in torch's own public ops instead."""
    return maps.device.type == "cpu" and type(maps) in {Tensor, torch.nn.Parameter} and not plain_only()


def _config(which: str, maps: Tensor, in_channels: int, out_channels: int) -> Config | None:
    """The Triton kernel that runs a pass over these maps, of dgrad the layer's output; ``None`` for torch."""
    if not maps.is_cuda or not has_triton() or plain_only():
        return None
    batch, _, height, width = maps.shape
    pixels = batch * (height // 2) * (width // 2) if which == "dgrad" else batch * height * width
    if not all(type(size) is int for size in (in_channels, out_channels, pixels)):
        return None  # only a symbol yet, where torch.compile traces for sizes that change
    tf32 = kernel_configs.tf32_allowed()
    return kernel_choice.choose(
        which, in_channels, out_channels, pixels, maps.dtype, _capability(maps.device), tf32=tf32
    )


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _fits_image_kernels(y: Tensor) -> bool:
    return y.is_cuda and has_triton() and not plain_only() and y.shape[1] <= 4 and y.dtype != torch.float64


def _kernels() -> Any:
    return importlib.import_module("preimage.ops.upconv.kernels")
