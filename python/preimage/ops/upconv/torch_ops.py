"""Register the passes as ops, ``torch.ops.preimage.upconv*``, whose Triton kernels torch.compile can trace.

Importing this module takes longer than importing torch, because `torch.library.triton_op` loads dynamo and inductor;
`dispatch` imports it only when the ops are needed.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op

from preimage.ops._triton import has_triton
from preimage.ops.upconv import passes
from preimage.ops.upconv.passes import channels_last

if not has_triton():  # torch searches every op for kernels, and would warn for each that Triton is missing
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    sys.modules.setdefault("triton", None)  # type: ignore[arg-type] # hides a broken Triton from torch, too

_OPS: dict[str, Any] = {
    function.__name__: triton_op(f"preimage::{function.__name__}", function, mutates_args=())
    for function in (
        passes.upconv,
        passes.upconv_activation_backward,
        passes.upconv_dgrad,
        passes.upconv_wgrad,
        passes.upconv_image_backward,
        passes.image_distance,
        passes.upconv_distance_backward,
    )
}


@_OPS["upconv"].register_fake  # type: ignore[untyped-decorator]
def _upconv(x: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float | None, repeated: bool) -> Tensor:
    batch, _, height, width = x.shape
    return _maps(x, (batch, weight.shape[1], 2 * height, 2 * width))


@_OPS["upconv_activation_backward"].register_fake  # type: ignore[untyped-decorator]
def _upconv_activation_backward(gradient: Tensor, y: Tensor, negative_slope: float) -> tuple[Tensor, Tensor]:
    return _maps(y, y.shape), y.new_empty(y.shape[1], dtype=_sum_dtype(y))


@_OPS["upconv_dgrad"].register_fake  # type: ignore[untyped-decorator]
def _upconv_dgrad(
    dz: Tensor, weight: Tensor, below: Tensor | None, negative_slope: float | None
) -> tuple[Tensor, Tensor]:
    batch, _, height, width = dz.shape
    dx = _maps(dz, (batch, weight.shape[0], height // 2, width // 2))
    return dx, dz.new_empty(0 if below is None else weight.shape[0], dtype=_sum_dtype(dz))


@_OPS["upconv_wgrad"].register_fake  # type: ignore[untyped-decorator]
def _upconv_wgrad(x: Tensor, dz: Tensor) -> Tensor:
    return _kernel(x, dz.shape[1])


@_OPS["upconv_image_backward"].register_fake  # type: ignore[untyped-decorator]
def _upconv_image_backward(
    x: Tensor, dz: Tensor, weight: Tensor, negative_slope: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    return _maps(x, x.shape), x.new_empty(x.shape[1], dtype=_sum_dtype(x)), _kernel(x, weight.shape[1])


@_OPS["image_distance"].register_fake  # type: ignore[untyped-decorator]
def _image_distance(y: Tensor, target: Tensor, mean: Tensor) -> Tensor:
    return y.new_empty(y.shape[0], dtype=torch.float32)


@_OPS["upconv_distance_backward"].register_fake  # type: ignore[untyped-decorator]
def _upconv_distance_backward(
    x: Tensor, y: Tensor, target: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, negative_slope: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sums = (x.new_empty(channels, dtype=_sum_dtype(x)) for channels in (x.shape[1], y.shape[1]))
    return _maps(x, x.shape), next(sums), _kernel(x, weight.shape[1]), next(sums)


def _maps(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _kernel(x: Tensor, out_channels: int) -> Tensor:
    return channels_last(x.new_empty((x.shape[1], out_channels, 5, 5)))


def _sum_dtype(maps: Tensor) -> torch.dtype:
    return torch.promote_types(maps.dtype, torch.float32)
