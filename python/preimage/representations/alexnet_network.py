"""AlexNet as a torch module, in the three definitions that there are weights for, up to any of its layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
LAYERS = (*CONVOLUTIONS, "fc6", "fc7", "fc8", "prob")
STRIDES = {"conv1": 8, "conv2": 16, "conv3": 16, "conv4": 16, "conv5": 32}  # pixels; the others are vectors
SIDES = {"conv1": 27, "conv2": 13, "conv3": 13, "conv4": 13, "conv5": 6}  # cells, of an image of the variant's size

Step = Literal["pool", "norm"]


class Convolution(NamedTuple):
    """A convolutional layer: convolution, ReLU, then the steps of `after` in that order."""

    channels: int
    kernel: int
    stride: int
    padding: int
    groups: int
    after: tuple[Step, ...] = ()


class Variant(NamedTuple):
    """One definition of AlexNet.

    Attributes:
        image_side: pixels of the square images that make conv5's output 6×6 cells.
        convolutions: conv1 to conv5.
        ceil_mode: pooling keeps the last, incomplete window (Caffe).
    """

    image_side: int
    convolutions: tuple[Convolution, ...]
    ceil_mode: bool


def _caffe(*after: Step) -> Variant:
    convolutions = (
        Convolution(96, 11, 4, 0, 1, after),
        Convolution(256, 5, 1, 2, 2, after),
        Convolution(384, 3, 1, 1, 1),
        Convolution(384, 3, 1, 1, 2),
        Convolution(256, 3, 1, 1, 2, ("pool",)),
    )
    return Variant(227, convolutions, ceil_mode=True)


# Sources: Caffe's models/bvlc_reference_caffenet and models/bvlc_alexnet, deploy.prototxt; torchvision's alexnet.py.
VARIANTS = {
    "caffenet": _caffe("pool", "norm"),
    "bvlc": _caffe("norm", "pool"),
    "torchvision": Variant(
        224,
        (
            Convolution(64, 11, 4, 2, 1, ("pool",)),
            Convolution(192, 5, 1, 2, 1, ("pool",)),
            Convolution(384, 3, 1, 1, 1),
            Convolution(256, 3, 1, 1, 1),
            Convolution(256, 3, 1, 1, 1, ("pool",)),
        ),
        ceil_mode=False,
    ),
}

TORCHVISION_NAMES = {  # of the layers in torchvision's state_dict
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3",
    "features.8": "conv4",
    "features.10": "conv5",
    "classifier.1": "fc6",
    "classifier.4": "fc7",
    "classifier.6": "fc8",
}


def channels(variant: str, layer: str) -> int:
    """Channels of a layer's output, or the length of its vectors."""
    if layer in CONVOLUTIONS:
        return VARIANTS[variant].convolutions[CONVOLUTIONS.index(layer)].channels
    return 4096 if layer in ("fc6", "fc7") else 1000


def parameter_shapes(variant: str) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights and biases, by name (``conv1.weight``), in the order of the layers."""
    return {name: tuple(value.shape) for name, value in AlexNet(variant, device="meta").state_dict().items()}


class AlexNet(torch.nn.Module):
    """AlexNet from the (preprocessed) image up to one layer; what lies beyond is not even built.

    A layer's output is that of its last step: after ReLU, pooling and normalisation for conv1…conv5, after ReLU for
    fc6 and fc7, before the softmax for fc8, after it for prob. Its parameters are called ``conv1.weight``,
    ``conv1.bias``, …, ``fc8.bias``, and do not require gradients.

    Args:
        variant: ``"caffenet"`` (pools, then normalises), ``"bvlc"`` (normalises, then pools) or ``"torchvision"``
            (64-192-384-256-256 channels, no normalisation, no groups).
        last: the layer to build up to.
        device: of the parameters, which are not initialised to anything of use.

    Raises:
        ValueError: unknown variant or layer.
    """

    def __init__(self, variant: str, last: str = "prob", device: torch.device | str = "cpu") -> None:
        super().__init__()
        check_variant(variant)
        check_layer(last)
        self.variant = variant
        self.last = last
        self._definition = VARIANTS[variant]
        self._built = LAYERS[: LAYERS.index(last) + 1]
        before = 3
        for name, layer in zip(CONVOLUTIONS, self._definition.convolutions, strict=True):
            if name in self._built:
                out, size, stride, padding, groups, _ = layer
                self.add_module(name, torch.nn.Conv2d(before, out, size, stride, padding, 1, groups, device=device))
                before = layer.channels
        before *= SIDES["conv5"] ** 2
        for name in ("fc6", "fc7", "fc8"):
            if name in self._built:
                self.add_module(name, torch.nn.Linear(before, channels(variant, name), device=device))
                before = channels(variant, name)
        self.requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The last layer's output, (B, C, h, w) or (B, C), for images as the weights want them, (B, 3, H, W)."""
        return self.layers(pixels, [self.last])[self.last]

    def layers(self, pixels: torch.Tensor, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The outputs of several layers in one pass, by name in the order asked for.

        Args:
            pixels: images as the weights want them, (B, 3, H, W); fc6 and beyond take the variant's size only.
            names: of layers up to `last`; the pass ends at the deepest.

        Raises:
            ValueError: unknown layers, or ones that were not built.
        """
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            check_layer(name)
            if name not in self._built:
                raise ValueError(f"this network was built up to {self.last}, which is before {name}")
        found: dict[str, torch.Tensor] = {}
        for name in self._built:
            if len(found) == len(wanted):
                break
            pixels = self._layer(name, pixels)
            if name in wanted:
                found[name] = pixels
        return {name: found[name] for name in wanted}

    def _layer(self, name: str, x: torch.Tensor) -> torch.Tensor:
        if name == "prob":
            return x.softmax(1)
        x = self.get_submodule(name)(x if name in CONVOLUTIONS else x.flatten(1))
        if name == "fc8":
            return x
        x = F.relu(x, inplace=True)
        if name in CONVOLUTIONS:
            for step in self._definition.convolutions[CONVOLUTIONS.index(name)].after:
                if step == "pool":
                    x = F.max_pool2d(x, 3, 2, ceil_mode=self._definition.ceil_mode)
                else:  # torch divides alpha by the size, as Caffe does
                    x = F.local_response_norm(x, size=5, alpha=1e-4, beta=0.75, k=1.0)
        return x


def check_variant(variant: str) -> None:
    """``ValueError`` unless there is such a variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown AlexNet variant {variant!r}; known are {', '.join(VARIANTS)}")


def check_layer(layer: str) -> None:
    """``ValueError`` unless there is such a layer."""
    if layer not in LAYERS:
        raise ValueError(f"AlexNet has no layer {layer!r}; it has {', '.join(LAYERS)}")
