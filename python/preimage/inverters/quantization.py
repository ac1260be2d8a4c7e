"""Quantize weights to int8 with a float32 scale for each output channel, for storage."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

SCALE = ".scale"  # of the name of the scales of a weight
_LARGEST = 127
_SMALLEST_SIZE = 4096  # number of values; quantizing smaller tensors saves nothing


def quantized(weights: Mapping[str, torch.Tensor], transposed: Collection[str]) -> dict[str, torch.Tensor]:
    """Return weights as int8, with their scales under ``NAME.scale``; small tensors and vectors are unchanged.

    Args:
        weights: Floating-point tensors by name.
        transposed: Names of the weights whose output channels are axis 1; in others they are axis 0.
    """
    stored: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        if value.dim() < 2 or value.numel() < _SMALLEST_SIZE:
            stored[name] = value
            continue
        channels = 1 if name in transposed else 0
        others = [axis for axis in range(value.dim()) if axis != channels]
        scale = value.abs().amax(dim=others, keepdim=True).float() / _LARGEST
        scale[scale == 0] = 1
        stored[name] = (value / scale).round().to(torch.int8)
        stored[name + SCALE] = scale
    return stored


def dequantized(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return floating-point weights from those of `quantized`; tensors of other dtypes are unchanged.

    Raises:
        ValueError: int8 weights without scales, or with scales of another shape or dtype than one float32 for each
            channel.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, value in stored.items():
        if name.endswith(SCALE) and stored.get(name.removesuffix(SCALE), value).dtype == torch.int8:
            continue
        weights[name] = value
        if value.dtype == torch.int8:
            scale = stored.get(name + SCALE)
            if scale is None or not _is_per_channel(scale, value):
                held = "no scales" if scale is None else f"scales {tuple(scale.shape)} of {scale.dtype}"
                raise ValueError(f"the int8 weights {name} {tuple(value.shape)} have {held}")
            weights[name] = value * scale
    return weights


def _is_per_channel(scale: torch.Tensor, value: torch.Tensor) -> bool:
    long = [axis for axis, side in enumerate(scale.shape) if side != 1]
    fits = scale.dim() == value.dim() and all(scale.shape[axis] == value.shape[axis] for axis in long)
    return scale.dtype == torch.float32 and len(long) <= 1 and fits
