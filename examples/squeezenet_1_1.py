"""The features of SqueezeNet 1.1, without its classifier, as an example of a user's network.

    preimage train torch:squeezenet_1_1:network photos/ -o runs/fire9 \
        -p layer=fire9 -p weights=squeezenet1_1-features.npz
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import preimage

# fire module: input, squeezed, each of the two expanded
FIRES = {
    "fire2": (64, 16, 64),
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
        self.squeeze1x1 = nn.Conv2d(given, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.squeeze1x1(x))
        return F.relu(torch.cat((self.expand1x1(x), self.expand3x3(x)), dim=1))


class SqueezeNetFeatures(nn.Module):
    """(B, 3, 227, 227) → (B, 512, 14, 14). Layers to invert: fire2 … fire9."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2)
        for name, widths in FIRES.items():
            self.add_module(name, Fire(*widths))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(images)), 3, 2, ceil_mode=True)
        for name in FIRES:
            x = self.get_submodule(name)(x)
            if name in ("fire3", "fire5"):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        return x


def network(weights: str) -> preimage.Network:
    """SqueezeNet 1.1 up to fire9, with the weights of an ``.npz``, and how it wants its pixels."""
    model = SqueezeNetFeatures()
    with np.load(weights) as arrays:
        state = {name.replace("/", "."): torch.from_numpy(arrays[name]).float() for name in arrays.files}
    model.load_state_dict(state)
    pixels = preimage.Preprocessing(227, "bgr", 255.0, (104, 117, 123), (1, 1, 1))
    return preimage.Network(model, pixels, name="squeezenet-1.1")
