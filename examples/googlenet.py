"""GoogLeNet with batch normalization folded into its weights, as an example of a user's network.

    preimage layers torch:googlenet:network -p weights=googlenet.npz
    preimage extract torch:googlenet:network photos/ -o photos.e4 -p layer=e4 -p weights=googlenet.npz

The branches have the widths of Inception-BN; the pools are 2×2, there is no pool before a projection, and the first two
convolutions have no ReLU. The weights are an ``.npz`` of ``<layer>.weight`` (out, in, height, width) and
``<layer>.bias``.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import preimage

# block: input, 1x1, 3x3_reduce, 3x3, double3x3_reduce, double3x3_1, double3x3_2, projection
BLOCKS = {
    "a3": (192, 64, 64, 64, 64, 96, 96, 32),
    "b3": (256, 64, 64, 96, 64, 96, 96, 64),
    "c3": (320, 160, 128, 160, 64, 96, 96, 160),
    "a4": (576, 224, 64, 96, 96, 128, 128, 128),
    "b4": (576, 192, 96, 128, 96, 128, 128, 128),
    "c4": (576, 160, 128, 160, 128, 160, 160, 128),
    "d4": (608, 96, 128, 192, 160, 192, 192, 128),
    "e4": (608, 480, 128, 192, 192, 256, 256, 128),
    "a5": (1056, 352, 192, 320, 160, 224, 224, 128),
    "b5": (1024, 352, 192, 320, 160, 224, 224, 128),
}


class Block(nn.ModuleDict):
    """Four branches side by side, concatenated; ReLU after every convolution."""

    def __init__(self, given: int, one: int, *widths: int) -> None:
        reduced, three, double_reduced, first, second, projection = widths
        super().__init__(
            {
                "1x1": nn.Conv2d(given, one, 1),
                "3x3_reduce": nn.Conv2d(given, reduced, 1),
                "3x3": nn.Conv2d(reduced, three, 3, padding=1),
                "double3x3_reduce": nn.Conv2d(given, double_reduced, 1),
                "double3x3_1": nn.Conv2d(double_reduced, first, 3, padding=1),
                "double3x3_2": nn.Conv2d(first, second, 3, padding=1),
                "projection": nn.Conv2d(given, projection, 1),
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = (
            ("1x1",),
            ("3x3_reduce", "3x3"),
            ("double3x3_reduce", "double3x3_1", "double3x3_2"),
            ("projection",),
        )
        return torch.cat([self._branch(x, names) for names in branches], dim=1)

    def _branch(self, x: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
        for name in names:
            x = F.relu(self[name](x))
        return x


class GoogLeNet(nn.Module):
    """(B, 3, 224, 224) → 1000 class scores. Layers to invert: a3 … b5, ``pooled`` (1,024), ``scores``, ``prob``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.conv2 = nn.Conv2d(64, 64, 1)
        self.conv3 = nn.Conv2d(64, 192, 3, padding=1)
        for name, widths in BLOCKS.items():
            self.add_module(name, Block(*widths))
        self.pooled = nn.AdaptiveAvgPool2d(1)
        self.scores = nn.Conv2d(1024, 1000, 1)
        self.prob = nn.Softmax(dim=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.conv2(F.max_pool2d(self.conv1(images), 2))
        x = F.max_pool2d(F.relu(self.conv3(x)), 2)
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
            if name in ("c3", "e4"):
                x = F.max_pool2d(x, 2)
        return self.prob(self.scores(self.pooled(x)).flatten(1))


def network(weights: str) -> preimage.Network:
    """GoogLeNet with the weights of an ``.npz``, and how it wants its pixels."""
    model = GoogLeNet()
    with np.load(weights) as arrays:
        state = {name.replace("/", "."): torch.from_numpy(arrays[name]).float() for name in arrays.files}
    model.load_state_dict(state)
    return preimage.Network(model, preimage.Preprocessing(224), name="googlenet")
