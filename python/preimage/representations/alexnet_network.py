"""AlexNet as a torch module, in the three definitions that there are weights for, up to any of its layers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
LAYERS = (*CONVOLUTIONS, "fc6", "fc7", "fc8", "prob")
STRIDES = {"conv1": 8, "conv2": 16, "conv3": 16, "conv4": 16, "conv5": 32}  # pixels; the others are vectors

Step = Literal["pool", "norm"]


class Variant(NamedTuple):
    """One definition of AlexNet.

    Attributes:
        image_side: pixels of the square images that make conv5's output 6×6 cells.
        channels: of conv1 to conv5.
        groups: of conv1 to conv5.
        padding: of conv1, in pixels.
        after: steps behind the ReLU of conv1 and of conv2.
        ceil_mode: pooling keeps the last, incomplete window (Caffe).
    """

    image_side: int
    channels: tuple[int, ...]
    groups: tuple[int, ...]
    padding: int
    after: tuple[Step, ...]
    ceil_mode: bool


# Sources: Caffe's models/bvlc_reference_caffenet and models/bvlc_alexnet, deploy.prototxt; torchvision's alexnet.py.
VARIANTS = {
    "caffenet": Variant(227, (96, 256, 384, 384, 256), (1, 2, 1, 2, 2), 0, ("pool", "norm"), ceil_mode=True),
    "bvlc": Variant(227, (96, 256, 384, 384, 256), (1, 2, 1, 2, 2), 0, ("norm", "pool"), ceil_mode=True),
    "torchvision": Variant(224, (64, 192, 384, 256, 256), (1, 1, 1, 1, 1), 2, ("pool",), ceil_mode=False),
}


def channels(variant: str, layer: str) -> int:
    """Channels of a layer's output, or the length of its vectors."""
    if layer in CONVOLUTIONS:
        return VARIANTS[variant].channels[CONVOLUTIONS.index(layer)]
    return 4096 if layer in ("fc6", "fc7") else 1000


def parameter_shapes(variant: str) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights and biases, by name (``conv1.weight``), in the order of the layers."""
    return {name: tuple(value.shape) for name, value in build(variant, device="meta").state_dict().items()}


class Convolution(torch.nn.Conv2d):
    """Convolution and ReLU, then the steps of `after` in that order."""

    def __init__(self, *args: Any, after: tuple[Step, ...], ceil_mode: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self.after, self.ceil_mode = after, ceil_mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(super().forward(x), inplace=True)
        for step in self.after:
            if step == "pool":
                x = F.max_pool2d(x, 3, 2, ceil_mode=self.ceil_mode)
            else:  # torch divides alpha by the size, as Caffe does
                x = F.local_response_norm(x, size=5, alpha=1e-4, beta=0.75, k=1.0)
        return x


class Connected(torch.nn.Linear):
    """A fully connected layer of everything before it, and ReLU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(super().forward(x.flatten(1)), inplace=True)


def build(variant: str, last: str = "prob", device: torch.device | str = "cpu") -> torch.nn.Sequential:
    """Build AlexNet up to one layer; what lies beyond is not even built.

    A layer's output is that of its last step: after ReLU, pooling and normalization for conv1…conv5, after ReLU for
    fc6 and fc7, before the softmax for fc8, after it for prob. Its parameters are called ``conv1.weight``,
    ``conv1.bias``, …, ``fc8.bias``.

    Args:
        variant: ``"caffenet"`` (pools, then normalizes), ``"bvlc"`` (normalizes, then pools) or ``"torchvision"``
            (64-192-384-256-256 channels, no normalization, no groups).
        last: the layer to build up to.
        device: of the parameters.

    Raises:
        ValueError: unknown variant or layer.
    """
    check_variant(variant)
    if last not in LAYERS:
        raise ValueError(f"AlexNet has no layer {last!r}; it has {', '.join(LAYERS)}")
    _, sizes, groups, padding, first, ceil_mode = VARIANTS[variant]
    layers: OrderedDict[str, torch.nn.Module] = OrderedDict()
    before = 3
    for index, name in enumerate(LAYERS[: LAYERS.index(last) + 1]):
        if name in CONVOLUTIONS:
            kernel, stride, border = ((11, 4, padding), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))[index]
            layers[name] = Convolution(
                before,
                sizes[index],
                kernel,
                stride,
                border,
                groups=groups[index],
                device=device,
                after=(first, first, (), (), ("pool",))[index],
                ceil_mode=ceil_mode,
            )
        elif name == "prob":
            layers[name] = torch.nn.Softmax(1)
        else:
            linear = torch.nn.Linear if name == "fc8" else Connected
            layers[name] = linear(before * (36 if name == "fc6" else 1), channels(variant, name), device=device)
        before = channels(variant, name)
    return torch.nn.Sequential(layers)


def check_variant(variant: str) -> None:
    """``ValueError`` unless there is such a variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown AlexNet variant {variant!r}; known are {', '.join(VARIANTS)}")
