"""Layers of inverters, and their notation in configs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from preimage.nn import UpConv2d, UpConvChain

NEGATIVE_SLOPE = 0.2
IMAGE_LAYER = "up 3"
_MOST_LAYERS = 200


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer in the notation of the paper's tables: ``"c5/2 256"`` or ``"up 128"``.

    ``cK/S N`` is a K×K convolution with stride S to N channels, ``up N`` an up-convolution ×2 to N channels, ``res`` a
    `ResidualBlock`. For vectors, ``fc N`` is a fully connected layer to N values, and ``grid S N`` reshapes the S² · N
    values of a vector to a map of S×S with N channels.
    """

    kind: Literal["conv", "up", "res", "fc", "grid"]
    channels: int = 0
    kernel: int = 5
    stride: int = 1
    side: int = 0

    @classmethod
    def parse(cls, text: str) -> Layer:
        """Parse the notation; ``ValueError`` for anything else."""
        if match := re.fullmatch(r"c([1-9]\d?)/([12]) ([1-9]\d{0,4})", text):
            kernel, stride, channels = map(int, match.groups())
            if kernel % 2 == 1:
                return cls("conv", channels, kernel, stride)
        elif match := re.fullmatch(r"up ([1-9]\d{0,4})", text):
            return cls("up", int(match[1]))
        elif match := re.fullmatch(r"fc ([1-9]\d{0,5})", text):
            return cls("fc", int(match[1]))
        elif match := re.fullmatch(r"grid ([1-9]\d?) ([1-9]\d{0,4})", text):
            return cls("grid", int(match[2]), side=int(match[1]))
        elif text == "res":
            return cls("res")
        raise ValueError(
            f"not a layer: {text!r}; layers are like 'c5/2 256' (odd kernel/stride channels), 'up 128', 'res', "
            "'fc 4096' or 'grid 4 256'"
        )


class ConvLayer(nn.Module):
    """K×K convolution, "same" padding for stride 1, halving for stride 2, then leaky ReLU 0.2."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, *, repeat_edges: bool = False
    ) -> None:
        super().__init__()
        self.conv = conv(in_channels, out_channels, kernel, stride, repeat_edges=repeat_edges)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(self.conv(x), NEGATIVE_SLOPE)


class FullyConnected(nn.Linear):
    """Fully connected layer for vectors, then leaky ReLU 0.2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        if not self.weight.is_meta:  # on the meta device torch would import dynamo
            nn.init.kaiming_normal_(self.weight, a=NEGATIVE_SLOPE)
        nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(super().forward(x), NEGATIVE_SLOPE)


class ResidualBlock(nn.Module):
    """Residual block x + conv(lrelu(conv(lrelu(x)))), initialized as the identity.

    Deep stacks of it train without normalization. Without batch statistics the absolute brightness of an image is
    preserved, and the reconstruction of an image does not depend on the others in its batch.
    """

    def __init__(self, channels: int, *, repeat_edges: bool = False) -> None:
        super().__init__()
        self.first = conv(channels, channels, 3, repeat_edges=repeat_edges)
        self.second = conv(channels, channels, 3, repeat_edges=repeat_edges)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.first(F.leaky_relu(x, NEGATIVE_SLOPE))
        return x + self.second(F.leaky_relu(inner, NEGATIVE_SLOPE))


class UpLayer(UpConv2d):
    """Up-convolution with leaky ReLU 0.2, where the edges of the map may be repeated instead of padded with zeros."""

    def __init__(self, in_channels: int, out_channels: int, *, repeat_edges: bool = False) -> None:
        super().__init__(in_channels, out_channels, NEGATIVE_SLOPE)
        self.repeat_edges = repeat_edges

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.repeat_edges:
            return super().forward(x)
        return super().forward(F.pad(x, (1, 1, 1, 1), mode="replicate"))[:, :, 2:-2, 2:-2]


class Grid(nn.Module):
    """Reshape vectors (B, N·S·S) to maps (B, N, S, S)."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.channels, self.side = channels, side

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, self.channels, self.side, self.side).contiguous(memory_format=torch.channels_last)


def upconv_weights(model: nn.Module) -> set[str]:
    """Return the names of the weights of a model's up-convolutions, whose output channels are the second axis."""
    return {f"{name}.weight".lstrip(".") for name, module in model.named_modules() if isinstance(module, UpConv2d)}


def halvings(layers: Sequence[str]) -> int:
    """Return the number of layers that halve the map."""
    return sum(Layer.parse(layer).stride == 2 for layer in layers)


def doublings(layers: Sequence[str]) -> int:
    """Return the number of layers that double the map."""
    return sum(Layer.parse(layer).kind == "up" for layer in layers)


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, repeat_edges: bool = False) -> nn.Conv2d:
    """Return a He-initialized convolution with zero bias, padded by ``kernel // 2`` zeros or repeated edges.

    Its weight is in channels_last memory format, like the maps, which is up to twice as fast on CPUs and GPUs.
    """
    mode: Literal["replicate", "zeros"] = "replicate" if repeat_edges else "zeros"
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, padding_mode=mode)
    if not layer.weight.is_meta:
        nn.init.kaiming_normal_(layer.weight, a=NEGATIVE_SLOPE)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def chain(in_channels: int, layers: Sequence[str], *, last_is_image: bool = False) -> UpConvChain:
    """Return the layers of a notation in sequence, each with leaky ReLU 0.2.

    Args:
        in_channels: Number of input channels.
        layers: Notation, see `Layer`.
        last_is_image: Whether the last layer must be an up-convolution to an image, which has no activation.

    Raises:
        ValueError: Text that is not a layer; a layer that does not accept the output of the previous one; too many
            layers; or a last layer that does not return an image.
    """
    if len(layers) > _MOST_LAYERS:
        raise ValueError(f"{len(layers)} layers; at most {_MOST_LAYERS} are allowed")
    if last_is_image and (not layers or layers[-1] != IMAGE_LAYER):
        raise ValueError(f"the last layer returns the image, so it must be {IMAGE_LAYER!r}, got {list(layers[-1:])}")
    modules: list[nn.Module] = []
    for index, layer in enumerate(map(Layer.parse, layers)):
        is_image = last_is_image and index == len(layers) - 1
        modules.append(_module(in_channels, layer, is_image))
        in_channels = layer.channels or in_channels
    return UpConvChain(*modules)


def out_channels(in_channels: int, layers: Sequence[str]) -> int:
    """Return the number of output channels of layers."""
    return next((layer.channels for layer in map(Layer.parse, reversed(layers)) if layer.channels), in_channels)


def _module(in_channels: int, layer: Layer, is_image: bool) -> nn.Module:
    if layer.kind == "up":
        return UpConv2d(in_channels, layer.channels, None if is_image else NEGATIVE_SLOPE)
    if layer.kind == "fc":
        return FullyConnected(in_channels, layer.channels)
    if layer.kind == "grid":
        if in_channels != layer.channels * layer.side**2:
            raise ValueError(
                f"a grid of {layer.side}×{layer.side}×{layer.channels} takes that many values, not {in_channels}"
            )
        return Grid(layer.channels, layer.side)
    if layer.kind == "res":
        return ResidualBlock(in_channels)
    return ConvLayer(in_channels, layer.channels, layer.kernel, layer.stride)
