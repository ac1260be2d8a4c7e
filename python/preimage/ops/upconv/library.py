"""The passes as registered ops, ``torch.ops.preimage.upconv*``: each goes to the device's fastest arithmetic.

On CUDA that is one of the Triton kernels or torch's own convolution, as `choice` has it for the architecture; on the
CPU what `cpu` says; anywhere else, or with the environment variable ``PREIMAGE_UPCONV=plain``, torch alone.
The ops know no gradients: `chain` has them. torch.compile looks into the ops and sees the Triton kernels.
"""

import functools
import importlib
import logging
import os
import sys
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op

from preimage.ops._triton import has_triton
from preimage.ops.upconv import choice, configs, cpu, plain
from preimage.ops.upconv.configs import Config

# triton_op reads the annotations to make a schema: they are no strings in this file.


def upconv(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float | None, repeated: bool) -> Tensor:
    """`plain.forward`. `repeated`: the same weight will come again, unchanged, as in inference."""
    x = channels_last(x)
    if config := _config("forward", x, weight.shape[1], weight.shape[0]):
        return _kernels().forward(x, weight, bias, negative_slope, config)
    if _on_cpu(x):
        return channels_last(cpu.forward(x, weight, bias, negative_slope, repeated=repeated))
    return channels_last(plain.forward(x, weight, bias, negative_slope))


def upconv_dgrad(
    dz: Tensor, weight: Tensor, below: Tensor | None, negative_slope: float | None
) -> tuple[Tensor, Tensor]:
    """`plain.dgrad`."""
    dz = channels_last(dz)
    if config := _config("dgrad", dz, weight.shape[1], weight.shape[0]):
        return _kernels().dgrad(dz, weight, below, negative_slope, config)
    dx, bias_gradient = (cpu if _on_cpu(dz) else plain).dgrad(dz, weight, below, negative_slope)
    return channels_last(dx), bias_gradient


def upconv_wgrad(x: Tensor, dz: Tensor) -> Tensor:
    """`plain.wgrad`."""
    x, dz = channels_last(x), channels_last(dz)
    if config := _config("wgrad", x, x.shape[1], dz.shape[1]):
        return _kernels().wgrad(x, dz, config)
    return _as_kept((cpu if _on_cpu(x) else plain).wgrad(x, dz))


def upconv_image_backward(
    x: Tensor, dz: Tensor, weight: Tensor, negative_slope: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`plain.image_backward`."""
    x, dz = channels_last(x), channels_last(dz)
    if config := _config("image_backward", x, x.shape[1], weight.shape[0]):
        return _kernels().image_backward(x, dz, weight, negative_slope, config)
    return *upconv_dgrad(dz, weight, x, negative_slope), upconv_wgrad(x, dz)


def image_distance(y: Tensor, target: Tensor, mean: Tensor) -> Tensor:
    """`plain.image_distance`."""
    y, target = channels_last(y), channels_last(target)
    if _fits_image_kernels(y):
        return _kernels().image_distance(y, target, mean)
    return plain.image_distance(y, target, mean)


def upconv_distance_backward(
    x: Tensor,
    y: Tensor,
    target: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Tensor,
    negative_slope: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`plain.distance_backward`."""
    x, y, target = channels_last(x), channels_last(y), channels_last(target)
    if config := _config("distance_backward", x, x.shape[1], weight.shape[0]):
        return _kernels().distance_backward(x, y, target, mean, scale, weight, negative_slope, config)
    dz = channels_last(plain.image_distance_backward(y, target, mean, scale))
    return *upconv_image_backward(x, dz, weight, negative_slope), plain.bias_gradient(dz)


if not has_triton():  # torch looks for kernels in every op, and would say for each that there is no Triton
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    sys.modules.setdefault("triton", None)  # type: ignore[arg-type] # one that does not import is none, for torch too

_OPS: dict[str, Any] = {
    function.__name__: triton_op(f"preimage::{function.__name__}", function, mutates_args=())
    for function in (
        upconv,
        upconv_dgrad,
        upconv_wgrad,
        upconv_image_backward,
        image_distance,
        upconv_distance_backward,
    )
}


def passes(maps: Tensor) -> Any:
    """What has the passes as attributes, for maps like these: the registered ops, or what is behind them.

    On a CPU the way through the dispatcher would take longer than a small layer does.
    """
    return torch.ops.preimage if maps.is_cuda or torch.compiler.is_compiling() else _DIRECT


_DIRECT = sys.modules[__name__]


@_OPS["upconv"].register_fake  # type: ignore[untyped-decorator]
def _upconv(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float | None, repeated: bool) -> Tensor:
    batch, _, height, width = x.shape
    return _maps(x, (batch, weight.shape[0], 2 * height, 2 * width))


@_OPS["upconv_dgrad"].register_fake  # type: ignore[untyped-decorator]
def _upconv_dgrad(
    dz: Tensor, weight: Tensor, below: Tensor | None, negative_slope: float | None
) -> tuple[Tensor, Tensor]:
    batch, _, height, width = dz.shape
    dx = _maps(dz, (batch, weight.shape[1], height // 2, width // 2))
    return dx, dz.new_empty(0 if below is None else weight.shape[1], dtype=_sum_dtype(dz))


@_OPS["upconv_wgrad"].register_fake  # type: ignore[untyped-decorator]
def _upconv_wgrad(x: Tensor, dz: Tensor) -> Tensor:
    return _kernel(x, dz.shape[1])


@_OPS["upconv_image_backward"].register_fake  # type: ignore[untyped-decorator]
def _upconv_image_backward(
    x: Tensor, dz: Tensor, weight: Tensor, negative_slope: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    return _maps(x, x.shape), x.new_empty(x.shape[1], dtype=_sum_dtype(x)), _kernel(x, weight.shape[0])


@_OPS["image_distance"].register_fake  # type: ignore[untyped-decorator]
def _image_distance(y: Tensor, target: Tensor, mean: Tensor) -> Tensor:
    return y.new_empty(y.shape[0], dtype=torch.float32)


@_OPS["upconv_distance_backward"].register_fake  # type: ignore[untyped-decorator]
def _upconv_distance_backward(
    x: Tensor, y: Tensor, target: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, negative_slope: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sums = (x.new_empty(channels, dtype=_sum_dtype(x)) for channels in (x.shape[1], y.shape[1]))
    return _maps(x, x.shape), next(sums), _kernel(x, weight.shape[0]), next(sums)


def _maps(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _kernel(x: Tensor, out_channels: int) -> Tensor:
    return _as_kept(x.new_empty((out_channels, x.shape[1], 5, 5)))


def _sum_dtype(maps: Tensor) -> torch.dtype:
    return torch.promote_types(maps.dtype, torch.float32)


def channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def _as_kept(dw: Tensor) -> Tensor:
    """A weight's gradient in memory as the weight is best kept: (Ci, Co, 5, 5); on CUDA (5, 5, Ci, Co)."""
    if dw.is_cuda:
        return dw.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    return dw.transpose(0, 1).contiguous().transpose(0, 1)


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
    tf32 = configs.tf32_allowed()
    return choice.choose(which, in_channels, out_channels, pixels, maps.dtype, _capability(maps.device), tf32=tf32)


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _fits_image_kernels(y: Tensor) -> bool:
    return y.is_cuda and has_triton() and not plain_only() and y.shape[1] <= 4 and y.dtype != torch.float64


def _kernels() -> Any:
    return importlib.import_module("preimage.ops.upconv.kernels")
