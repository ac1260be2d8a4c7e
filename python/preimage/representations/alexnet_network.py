"""AlexNet as a torch module, in its three published definitions, up to any of its layers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F

from preimage.representations.alexnet_variants import CONVOLUTIONS, LAYERS, VARIANTS, Step, channels, check_variant


def parameter_shapes(variant: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights and biases by name (``conv1.weight``), in the order of the layers."""
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
    """Fully connected layer on the flattened input, and ReLU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(super().forward(x.flatten(1)), inplace=True)


def build(variant: str, last: str = "prob", device: torch.device | str = "cpu") -> torch.nn.Sequential:
    """Build AlexNet up to one layer.

    A layer's output is that of its last step: after ReLU, pooling and normalization for conv1…conv5, after ReLU for
    fc6 and fc7, before the softmax for fc8, after it for prob. The names of its parameters are
    ``conv1.weight``, ``conv1.bias``, …, ``fc8.bias``.

    Args:
        variant: ``"caffenet"`` (pools, then normalizes), ``"bvlc"`` (normalizes, then pools) or ``"torchvision"``
            (64-192-384-256-256 channels, no normalization, no groups).
        last: Last layer to build.
        device: Device of the parameters.

    Raises:
        ValueError: Unknown variant or layer.
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
