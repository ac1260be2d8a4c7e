"""Run each pass of the layer with the fastest implementation for the device.

On CUDA this is a Triton kernel or cuDNN, chosen by `kernel_choice`; on the CPU `cpu_passes`; on other devices, or with
the environment variable ``PREIMAGE_UPCONV=plain``, `torch_passes`. These functions have no autograd, which is added in
`chain_backward`. `torch_ops` registers them as ops, ``torch.ops.preimage.upconv*``.
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

# `torch_ops` infers schemas from the annotations, so this file does not postpone their evaluation.


def upconv(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float | None, repeated: bool) -> Tensor:
    """Run `torch_passes.forward`. `repeated`: the weight will be used again unchanged, as in inference."""
    x = channels_last(x)
    if config := _config("forward", x, *weight.shape[:2]):
        return _kernels().forward(x, weight, bias, negative_slope, config)
    if _on_cpu(x):
        return channels_last(cpu_passes.forward(x, weight, bias, negative_slope, repeated=repeated))
    return channels_last(torch_passes.forward(x, weight, bias, negative_slope))


def upconv_activation_backward(gradient: Tensor, y: Tensor, negative_slope: float) -> tuple[Tensor, Tensor]:
    """Run `torch_passes.activation_backward`."""
    if _runs_elementwise(y):
        return _kernels().activation_backward(gradient, y, negative_slope)
    dz, bias_gradient = torch_passes.activation_backward(gradient, y, negative_slope)
    return channels_last(dz), bias_gradient


def upconv_dgrad(
    dz: Tensor, weight: Tensor, below: Tensor | None, negative_slope: float | None
) -> tuple[Tensor, Tensor]:
    """Run `torch_passes.dgrad`."""
    dz = channels_last(dz)
    if config := _config("dgrad", dz, *weight.shape[:2]):
        return _kernels().dgrad(dz, weight, below, negative_slope, config)
    dx, bias_gradient = (cpu_passes if _on_cpu(dz) else torch_passes).dgrad(dz, weight, below, negative_slope)
    return channels_last(dx), bias_gradient


def upconv_wgrad(x: Tensor, dz: Tensor) -> Tensor:
    """Run `torch_passes.wgrad`."""
    x, dz = channels_last(x), channels_last(dz)
    if config := _config("wgrad", x, x.shape[1], dz.shape[1]):
        return _kernels().wgrad(x, dz, config)
    return channels_last((cpu_passes if _on_cpu(x) else torch_passes).wgrad(x, dz))


def upconv_image_backward(
    x: Tensor, dz: Tensor, weight: Tensor, negative_slope: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Run `torch_passes.image_backward`."""
    x, dz = channels_last(x), channels_last(dz)
    if config := _config("image_backward", x, *weight.shape[:2]):
        return _kernels().image_backward(x, dz, weight, negative_slope, config)
    return *upconv_dgrad(dz, weight, x, negative_slope), upconv_wgrad(x, dz)


def image_distance(y: Tensor, target: Tensor, mean: Tensor) -> Tensor:
    """Run `torch_passes.image_distance`."""
    y, target = channels_last(y), channels_last(target)
    if _runs_elementwise(y) and y.shape[1] <= kernel_configs.IMAGE_CHANNELS:
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
    """Run `torch_passes.distance_backward`."""
    x, y, target = channels_last(x), channels_last(y), channels_last(target)
    if config := _config("distance_backward", x, *weight.shape[:2]):
        return _kernels().distance_backward(x, y, target, mean, scale, weight, negative_slope, config)
    dz = channels_last(torch_passes.image_distance_backward(y, target, mean, scale))
    return *upconv_image_backward(x, dz, weight, negative_slope), torch_passes.bias_gradient(dz)


def channels_last(values: Tensor) -> Tensor:
    """Return maps or a weight in channels_last memory format."""
    return values.contiguous(memory_format=torch.channels_last)


def plain_only() -> bool:
    """Return whether the environment variable ``PREIMAGE_UPCONV`` selects `torch_passes`."""
    wanted = os.environ.get("PREIMAGE_UPCONV", "auto")
    if wanted not in {"auto", "plain"}:
        raise ValueError(f"PREIMAGE_UPCONV must be auto or plain, got {wanted!r}")
    return wanted == "plain"


def _on_cpu(maps: Tensor) -> bool:
    """Return whether `cpu_passes` can run; torch.compile traces `torch_passes` instead, which uses public ops only."""
    return maps.device.type == "cpu" and type(maps) in {Tensor, torch.nn.Parameter} and not plain_only()


def _on_gpu(maps: Tensor) -> bool:
    """Return whether Triton kernels can run."""
    return maps.is_cuda and has_triton() and not plain_only()


def _config(which: str, maps: Tensor, in_channels: int, out_channels: int) -> Config | None:
    """Return the configuration of the Triton kernel for a pass over `maps` (for dgrad, dz), or ``None`` for torch."""
    if not _on_gpu(maps):
        return None
    batch, _, height, width = maps.shape
    pixels = batch * (height // 2) * (width // 2) if which == "dgrad" else batch * height * width
    if not all(type(size) is int for size in (in_channels, out_channels, pixels)):
        return None  # symbolic sizes, when torch.compile traces with dynamic shapes
    tf32 = kernel_configs.tf32_allowed()
    return kernel_choice.choose(
        which, in_channels, out_channels, pixels, maps.dtype, _capability(maps.device), tf32=tf32
    )


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _runs_elementwise(maps: Tensor) -> bool:
    """Return whether elementwise Triton kernels can run, which need no tensor cores."""
    size = maps.numel()
    return _on_gpu(maps) and maps.dtype != torch.float64 and type(size) is int and size <= kernel_configs.MOST_ELEMENTS


def _kernels() -> Any:
    return importlib.import_module("preimage.ops.upconv.kernels")
