"""SqueezeNet 1.0, as an example of a user's network.

    preimage layers torch:squeezenet:network -p weights=squeezenet1_0.npz
    preimage extract torch:squeezenet:network photos/ -o photos.scores -p layer=scores -p weights=squeezenet1_0.npz

The weights are an ``.npz`` of ``<layer>.weight`` (out, in, height, width) and ``<layer>.bias``.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import preimage

# fire module: input, squeezed, each of the two expanded
FIRES = {
    "fire2": (96, 16, 64),
    "fire3": (128, 16, 64),
    "fire4": (128, 32, 128),
    "fire5": (256, 32, 128),
    "fire6": (256, 48, 192),
    "fire7": (384, 48, 192),
    "fire8": (384, 64, 256),
    "fire9": (512, 64, 256),
}


class Fire(nn.Module):
    """Squeeze 1×1, then expand 1×1 and 3×3 side by side; ReLU after every convolution."""

    def __init__(self, given: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.conv1x1_1 = nn.Conv2d(given, squeezed, 1)
        self.conv1x1_2 = nn.Conv2d(squeezed, expanded, 1)
        self.conv3x3_2 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv1x1_1(x))
        return F.relu(torch.cat((self.conv1x1_2(x), self.conv3x3_2(x)), dim=1))


class SqueezeNet(nn.Module):
    """(B, 3, 227, 227) → 1000 class probabilities. Layers to invert: fire2 … fire9, ``scores``, ``prob``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2)
        for name, widths in FIRES.items():
            self.add_module(name, Fire(*widths))
        self.conv_final = nn.Conv2d(512, 1000, 1, padding=1)
        self.scores = nn.AdaptiveAvgPool2d(1)
        self.prob = nn.Softmax(dim=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(images)), 3, 2, ceil_mode=True)
        for name in FIRES:
            x = self.get_submodule(name)(x)
            if name in ("fire4", "fire8"):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        return self.prob(self.scores(F.relu(self.conv_final(x))).flatten(1))


def network(weights: str) -> preimage.Network:
    """SqueezeNet 1.0 with the weights of an ``.npz``, and how it wants its pixels."""
    model = SqueezeNet()
    with np.load(weights) as arrays:
        state = {name.replace("/", "."): torch.from_numpy(arrays[name]).float() for name in arrays.files}
    model.load_state_dict(state)
    pixels = preimage.Preprocessing(227, "bgr", 255.0, (104, 117, 123), (1, 1, 1))
    return preimage.Network(model, pixels, name="squeezenet-1.0")
