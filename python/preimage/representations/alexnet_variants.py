"""The three published definitions of AlexNet, as plain data."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
LAYERS = (*CONVOLUTIONS, "fc6", "fc7", "fc8", "prob")
STRIDES = {"conv1": 8, "conv2": 16, "conv3": 16, "conv4": 16, "conv5": 32}  # pixels; other layers return vectors
DIGEST = re.compile(r"[0-9a-f]{16}")  # digest of weights

Step = Literal["pool", "norm"]


class Variant(NamedTuple):
    """One definition of AlexNet.

    Attributes:
        image_side: Pixels of the square images that make conv5's output 6×6 cells.
        channels: Numbers of output channels of conv1 to conv5.
        groups: Numbers of groups of conv1 to conv5.
        padding: Padding of conv1 in pixels.
        after: Steps after the ReLU of conv1 and of conv2.
        ceil_mode: Whether pooling keeps the last, incomplete window, as Caffe does.
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
    """Return the channels of a layer's output, or the length of its vectors."""
    if layer in CONVOLUTIONS:
        return VARIANTS[variant].channels[CONVOLUTIONS.index(layer)]
    return 4096 if layer in ("fc6", "fc7") else 1000


def check_variant(variant: str) -> None:
    """Raise ``ValueError`` for an unknown variant."""
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
