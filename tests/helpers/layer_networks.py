"""Provide a toy network with a layer of maps and one of vectors, and tiny untrained inverters for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F

from preimage.inverters import Inverter, SingleStreamConfig
from preimage.inverters.output_region import OutputRegion
from preimage.representations import Representation
from preimage.spec import Spec

SIDE = 32
VIEWS = {"maps": OutputRegion(SIDE, 28, 24), "vector": OutputRegion(SIDE, SIDE, 16)}
_CHANNELS = {"maps": 3, "vector": 12}


class ToyNetwork:
    """Network that returns blurred pixels as 8×8 maps, and coarser ones as a vector, and counts its passes."""

    def __init__(self, name: str = "toys.net:make", weights: str = "0123", gain: float = 1.0) -> None:
        self.name, self.weights, self.gain = name, weights, gain
        self.passes: list[tuple[int, tuple[str, ...]]] = []

    def representation(self, layer: str, output_layout: str = "auto") -> ToyLayer:
        """As `preimage.Network` has it."""
        if layer not in _CHANNELS:
            raise ValueError(f"no layer {layer!r}; there are {', '.join(_CHANNELS)}")
        return ToyLayer(self, layer, output_layout)

    def layers(
        self, images: torch.Tensor, names: Iterable[str], output_layout: str = "auto"
    ) -> dict[str, torch.Tensor]:
        """As `preimage.Network` has it."""
        wanted = tuple(names)
        assert images.shape[1:] == (3, SIDE, SIDE)
        assert images.dtype == torch.uint8
        self.passes.append((len(images), wanted))
        pixels = images.float() / 255 * self.gain
        every = {"maps": F.avg_pool2d(pixels, 4), "vector": F.avg_pool2d(pixels, 16).flatten(1)}
        return {name: every[name] for name in wanted}


@dataclasses.dataclass(frozen=True)
class ToyLayer(Representation):
    """A layer of `ToyNetwork`."""

    name: ClassVar[str] = "network"
    network: ToyNetwork
    layer: str
    output_layout: str = "auto"

    @property
    def image_side(self) -> int:
        """The only supported size."""
        return SIDE

    def feature_size(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the size of the maps."""
        return (height // 4, width // 4) if self.layer == "maps" else None

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the only supported size."""
        return SIDE, SIDE

    @property
    def spec(self) -> Spec:
        """As a layer of any torch network has it."""
        parameters = {"layer": self.layer, "output_layout": self.output_layout, "weights": self.network.weights}
        return Spec(
            "network", self.network.name, _CHANNELS[self.layer], 4 if self.layer == "maps" else None, parameters
        )

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features in a separate forward pass."""
        return self.network.layers(images, [self.layer], self.output_layout)[self.layer]


def tiny_inverter(spec: Spec, region: OutputRegion | None) -> Inverter:
    """Return an untrained inverter with fixed weights, whose output depends on the features."""
    torch.manual_seed(spec.channels)
    layers = ("c3/1 8", "up 8", "up 3") if spec.stride else ("fc 64", "grid 4 4", "up 8", "up 3")
    inverter = Inverter(spec, SingleStreamConfig(layers), output_region=region).eval().requires_grad_(False)
    inverter.feature_mean.fill_(0.5)
    inverter.feature_deviation.fill_(0.3)
    return inverter


def saved(network: ToyNetwork, layer: str, folder: Path) -> Path:
    """Save a tiny inverter for a layer and return its folder."""
    return tiny_inverter(network.representation(layer).spec, VIEWS[layer]).save(folder)
