"""Draw several images that one set of features allows: a decoder with noise, which shares the inverter's encoder.

Two kinds of noise enter: a vector that is common to the whole image (its colors and brightness) changes the channels of
the coarsest maps by an affine function, and maps of noise (what differs from place to place) are added to maps of all
sizes up to a quarter of the image's side. Finer noise, and a vector that changes finer maps, leave a grid of the
up-convolutions in the images. Without noise, and with the weights that `Sampler` starts with, the output is that of the
inverter's own decoder.
"""

from __future__ import annotations

import copy
import dataclasses
import numbers
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from preimage.inverters.architectures import Architecture, run_stages
from preimage.nn import UpConv2d, UpConvChain

MAX_SPREAD = 10  # far above any use, and far below values at which the network overflows

_FINEST_MAP = 4  # pixels of the image per value of the finest map with noise
_FINEST_VECTOR = 32  # pixels per value of the finest map that the noise vector changes, besides the first map
_GAIN = 0.5  # largest relative change of a channel; without a limit, some vectors give images with broken colors
# An untrained sampler adds noise of these deviations, relative to the map: less to maps of fewer pixels per value than
# `_FINE`, or training would prefer fine noise to coarse.
_FINE = 16
_FIRST_COARSE, _FIRST_FINE = 0.15, 0.04


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """Amount of noise.

    Attributes:
        vector: Length of the noise vector of an image.
        maps: Number of noise maps at each size.
    """

    vector: int = 16
    maps: int = 8

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if type(value) is not int or not 1 <= value <= 1024:
                raise ValueError(f"the sampler's {name} must be an integer from 1 to 1024, got {value!r:.40}")

    @classmethod
    def from_dict(cls, fields: Any) -> SamplerConfig:
        """Return the config with fields of a JSON file; ``ValueError`` for unknown, missing and invalid ones."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(fields, dict) or set(fields) != known:
            raise ValueError(f"a sampler has the fields {sorted(known)}, got {fields!r:.80}")
        return cls(**fields)


def check_noise(seed: int, spread: float) -> None:
    """Check the seed and the spread of noise.

    Raises:
        TypeError: A seed that is not an integer, or a spread that is not a number.
        ValueError: A seed outside of 0 to 2^32 - 1, or a spread outside of 0 to `MAX_SPREAD`.
    """
    if not hasattr(seed, "__index__"):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if not isinstance(spread, numbers.Real):
        raise TypeError(f"spread must be a number, got {spread!r}")
    if not 0 <= seed < 2**32:  # NumPy joins larger ones with the position
        raise ValueError(f"seed must be from 0 to 2^32 - 1, got {seed}")
    if not 0 <= spread <= MAX_SPREAD:
        raise ValueError(f"spread must be from 0 to {MAX_SPREAD}, got {spread}")


@dataclasses.dataclass(frozen=True)
class Noise:
    """The noise of a batch of images.

    Attributes:
        vector: (B, vector), each row of length √vector times the spread.
        maps: (B, maps, h, w) for each size, the coarsest first; standard normal times the spread.
    """

    vector: torch.Tensor
    maps: list[torch.Tensor]

    @classmethod
    def draw(
        cls,
        config: SamplerConfig,
        sizes: Sequence[tuple[int, int]],
        *,
        seed: int,
        positions: Sequence[int],
        draw: int,
        spread: float = 1.0,
    ) -> Noise:
        """Return float32 noise on the CPU.

        The noise of an image depends only on the seed, its position, the number of the draw, the sizes and the spread.

        Args:
            config: Amount of noise.
            sizes: Sizes (h, w) of the maps, the coarsest first.
            seed: Seed, from 0 to 2^32 - 1.
            positions: Position of each image of the batch among all images, at least 0.
            draw: Number of the draw, at least 0.
            spread: Factor of the noise, from 0 to `MAX_SPREAD`.
        """
        values = config.vector + config.maps * sum(height * width for height, width in sizes)
        seed, rows = operator.index(seed), np.empty((len(positions), values), np.float32)
        for row, position in zip(rows, positions, strict=True):
            np.random.default_rng([seed, position, draw]).standard_normal(out=row, dtype=np.float32)
        vector, *maps = torch.from_numpy(rows).split([config.vector, *(config.maps * h * w for h, w in sizes)], dim=1)
        vector = vector * (spread * config.vector**0.5 / vector.norm(dim=1, keepdim=True))
        shaped = [one.unflatten(1, (config.maps, *size)) * spread for one, size in zip(maps, sizes, strict=True)]
        return cls(vector, shaped)

    def to(self, other: torch.Tensor) -> Noise:
        """Return the noise on the device and with the dtype of a tensor."""
        return Noise(self.vector.to(other), [one.to(other) for one in self.maps])


class AddNoise(nn.Module):
    """Add noise to a map: x · (1 + gain(vector)) + r · (shift(vector) + mix(maps)), with limited gains.

    The root mean square r of the map makes learning independent of its scale, which differs from size to size.

    Args:
        channels: Number of channels of the map.
        config: Amount of noise.
        pixels: Pixels of the image per value of the map.
        first: Whether it is the first map with noise, which the noise vector always changes.
    """

    def __init__(self, channels: int, config: SamplerConfig, pixels: int, *, first: bool) -> None:
        super().__init__()
        with_vector = first or pixels >= _FINEST_VECTOR
        self.film = nn.Linear(config.vector, 2 * channels, bias=False) if with_vector else None
        self.mix = nn.Conv2d(config.maps, channels, 1, bias=False)
        deviation = _FIRST_FINE if pixels < _FINE else _FIRST_COARSE
        if not self.mix.weight.is_meta:
            nn.init.normal_(self.mix.weight, std=deviation / config.maps**0.5)
            if self.film is not None:
                nn.init.normal_(self.film.weight, std=deviation / config.vector**0.5)

    def forward(self, x: torch.Tensor, vector: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        scale = x.detach().float().square().mean(dim=(1, 2, 3), keepdim=True).sqrt().to(x.dtype)
        noise = self.mix(maps)
        if self.film is None:
            return x + scale * noise
        gain, shift = self.film(vector)[:, :, None, None].chunk(2, dim=1)
        return x * (1 + _GAIN * torch.tanh(gain)) + scale * (shift + noise)


class Sampler(nn.Module):
    """A copy of a network's stages and head, with noise.

    Args:
        network: The network whose encoder the sampler shares, and whose weights it starts with.
        config: Amount of noise.
    """

    def __init__(self, network: Architecture, config: SamplerConfig) -> None:
        super().__init__()
        self.config = config
        stages, head = network.stages(), list(network.to_image())
        ups = [index for index, layer in enumerate(head) if isinstance(layer, UpConv2d)]
        if not stages:  # the first up-convolution follows the encoder
            stages = [(nn.Identity(), UpConvChain(*head[: ups[0]]))]
            head = head[ups[0] :]
            ups = [index - ups[0] for index in ups]
        pixels = 2 ** len(ups)
        while pixels > _FINEST_MAP:  # a further stage of each up-convolution and the layers that follow it
            end = ups[1]
            stages.append((head[0], UpConvChain(*head[1:end])))
            head, ups, pixels = head[end:], [index - end for index in ups[1:]], pixels // 2
        self.enlarge, self.refine = (
            nn.ModuleList(map(copy.deepcopy, modules)) for modules in zip(*stages, strict=True)
        )
        self.head = UpConvChain(*copy.deepcopy(head))
        self.noise = nn.ModuleList()
        for index, enlarge in enumerate(self.enlarge):
            channels = enlarge.weight.shape[1] if isinstance(enlarge, UpConv2d) else network.encoded_channels
            scale = pixels * 2 ** (len(stages) - 1 - index)
            self.noise.append(AddNoise(channels, config, scale, first=index == 0))

    def forward(self, encoded: Sequence[torch.Tensor], noise: Noise) -> torch.Tensor:
        """Return images (B, 3, H, W) minus the mean color.

        Args:
            encoded: Output of the network's encoder.
            noise: Noise whose maps have the `sizes` of that output.
        """

        def add_noise(index: int, x: torch.Tensor) -> torch.Tensor:
            return self.noise[index](x, noise.vector, noise.maps[index])

        return self.head(run_stages(zip(self.enlarge, self.refine, strict=True), encoded, add_noise))

    def sizes(self, encoded: Sequence[torch.Tensor]) -> list[tuple[int, int]]:
        """Return the size (h, w) of the noise maps of each stage, for an output of the network's encoder."""
        height, width = encoded[-1].shape[2:]
        sizes = []
        for enlarge in self.enlarge:
            if isinstance(enlarge, UpConv2d):
                height, width = 2 * height, 2 * width
            sizes.append((height, width))
        return sizes

    @torch.no_grad()
    def scale_noise(self, factor: float) -> None:
        """Multiply the weights of the noise, which has the effect of that `spread` in `Noise.draw`."""
        for weight in self.noise.parameters():
            weight.mul_(factor)
