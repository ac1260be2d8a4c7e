"""Network architectures: the paper's, with one stream or two, and a U-shaped one that trains faster.

A config is a frozen dataclass of plain values. The input of a network is features (B, C, h, w), standardized if
``standardized`` is set, whose sides are multiples of ``multiple`` and include ``margin`` cells around the features. The
output is (B, 3, h·stride, w·stride), images minus the mean color. If a network has a ``side``, its input is vectors (B,
C) instead, and its output (B, 3, side, side). If ``log_floor`` is above zero, features are replaced by log(max(x,
log_floor)) before they are standardized.

Every network is an encoder, stages that may each double the map, and a head, a chain of layers to the image. Samples
share the encoder, see `preimage.inverters.sampler`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from preimage.inverters import keypoint_splat
from preimage.inverters.layers import (
    ConvLayer,
    Layer,
    ResidualBlock,
    UpLayer,
    chain,
    doublings,
    halvings,
    out_channels,
)
from preimage.nn import UpConvChain
from preimage.old_names import ARCHITECTURE_FIELDS, renamed

_MOST_BLOCKS = 100

# A layer that enlarges the map, or `nn.Identity`; and one that refines it, after the skip of its size is added.
Stage = tuple[nn.Module, nn.Module]


@dataclasses.dataclass(frozen=True)
class TwoStreamConfig:
    """The paper's network for HOG and LBP (section 3 and its supplementary tables).

    The stream ``context`` reduces the resolution to 1/8 and back, and so determines absolute brightness; the stream
    ``detail`` keeps the resolution. Their concatenation is the input of ``joint``, which returns the image. The layers
    are in the notation of `preimage.inverters.layers.Layer`. The margin is that of `UShapedConfig`.
    """

    architecture: ClassVar[str] = "two-stream"
    context: tuple[str, ...] = ("c5/2 256", "c5/2 512", "c3/2 1024", "up 512", "up 256", "up 128")
    detail: tuple[str, ...] = ("c5/1 128", "c3/1 128")
    joint: tuple[str, ...] = ("c3/1 256", "c3/1 128", "up 64", "up 32", "up 3")
    margin: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        _check_margin(self.margin)


@dataclasses.dataclass(frozen=True)
class SingleStreamConfig:
    """Layers in sequence, the last of which computes the image, as in the paper's networks for sparse SIFT and AlexNet.

    The input may be vectors: fully connected layers ("fc 4096") then come first, and a "grid" reshapes them to a map.

    Attributes:
        layers: Layers in the notation of `preimage.inverters.layers.Layer`.
        log_floor: Features are replaced by log(max(x, log_floor)) if above zero: for probabilities, most of which are
            negligible beside the largest.
    """

    architecture: ClassVar[str] = "single-stream"
    layers: tuple[str, ...]
    log_floor: float = 0.0


@dataclasses.dataclass(frozen=True)
class UShapedConfig:
    """U-shaped network: strided convolutions, then up-convolutions, with skips and residual blocks at every size.

    Attributes:
        entry: Layers before the first size, in the notation of `preimage.inverters.layers.Layer`, for features of
            another resolution.
        margin: Cells padded (before, after) the features along both axes, copies of the outermost: for features whose
            first cell is not at the edge of the image.
        splat_levels: For sparse SIFT, number of maps of `preimage.inverters.keypoint_splat.KeypointSplat` that are
            concatenated with the output of the entry; the features are then not standardized.
        widths: Channels at the resolution of the features, at half of it, at a quarter, …
        blocks_down: Residual blocks at each size on the way down; the last entry is the bottom.
        blocks_up: Residual blocks at each size on the way up, the finest first.
        head: Channels of the up-convolutions from the resolution of the features to that of the image, except for the 3
            channels of the image.
        repeat_edges: Number of the coarsest sizes at which the edges of a map are repeated instead of padded with
            zeros. An image of 256² has 2×2 values at the coarsest size, all of them at an edge: with zeros the kernels
            never see a full neighborhood in training, and fail on larger images.
    """

    architecture: ClassVar[str] = "u-shaped"
    widths: tuple[int, ...] = (48, 64, 96, 128, 176)
    blocks_down: tuple[int, ...] = (1, 1, 1, 1, 2)
    blocks_up: tuple[int, ...] = (1, 1, 1, 1)
    head: tuple[int, ...] = (32, 16)
    repeat_edges: int = 2
    entry: tuple[str, ...] = ()
    margin: tuple[int, int] = (0, 0)
    splat_levels: int = 0

    def __post_init__(self) -> None:
        if len(self.blocks_down) != len(self.widths) or len(self.blocks_up) != len(self.widths) - 1:
            raise ValueError(
                f"{len(self.widths)} widths need {len(self.widths)} blocks_down and {len(self.widths) - 1} "
                f"blocks_up, got {len(self.blocks_down)} and {len(self.blocks_up)}"
            )
        if max((*self.blocks_down, *self.blocks_up)) > _MOST_BLOCKS:
            raise ValueError(f"at most {_MOST_BLOCKS} blocks at a size, got {self.blocks_down} and {self.blocks_up}")
        _check_margin(self.margin)
        if self.splat_levels < 0 or (self.splat_levels and (not self.entry or doublings(self.entry))):
            raise ValueError(
                "splat_levels above 0 needs an entry without up-convolutions, got "
                f"{self.splat_levels} and the entry {self.entry}"
            )


def _check_margin(margin: tuple[int, int]) -> None:
    if len(margin) != 2 or min(margin) < 0:
        raise ValueError(f"margin must be the cells (before, after) the features, both >= 0, got {margin}")


ArchitectureConfig = TwoStreamConfig | SingleStreamConfig | UShapedConfig


class Architecture(nn.Module):
    """A network from features to images, in three parts: encoder, stages and head."""

    margin = (0, 0)
    standardized = True
    side: int | None = None
    log_floor = 0.0
    multiple: int
    stride: int
    encoded_channels: int  # of the last map of `encode`

    def encode(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Return the skips, the finest first, and the map that the first stage takes, of features (B, C, h, w)."""
        raise NotImplementedError

    def stages(self) -> list[Stage]:
        """Return the stages in order. A skip of its size is added to the output of each that enlarges the map."""
        raise NotImplementedError

    def to_image(self) -> UpConvChain:
        """Return the layers after the last stage, the last of which computes the image."""
        raise NotImplementedError

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.to_image()(self._decoded(features))

    def distance(self, features: torch.Tensor, images: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Return the distances (B,) of forward(features) + mean to images / 255, of images (B, 3, H, W) uint8."""
        return self.to_image().distance(self._decoded(features), images, mean)

    def _decoded(self, features: torch.Tensor) -> torch.Tensor:
        return run_stages(self.stages(), self.encode(features))


class TwoStream(Architecture):
    """See `TwoStreamConfig`."""

    def __init__(self, in_channels: int, config: TwoStreamConfig) -> None:
        super().__init__()
        context, detail = (out_channels(in_channels, layers) for layers in (config.context, config.detail))
        self.encoded_channels = context + detail
        self.margin = config.margin
        self.multiple = 2 ** halvings(config.context)
        self.stride = 2 ** doublings(config.joint)
        self.context = chain(in_channels, config.context)
        self.detail = chain(in_channels, config.detail)
        self.joint = chain(context + detail, config.joint, last_is_image=True)

    def encode(self, features: torch.Tensor) -> list[torch.Tensor]:
        return [torch.cat((self.context(features), self.detail(features)), dim=1)]

    def stages(self) -> list[Stage]:
        return []

    def to_image(self) -> UpConvChain:
        return self.joint


class SingleStream(Architecture):
    """See `SingleStreamConfig`."""

    def __init__(self, in_channels: int, config: SingleStreamConfig) -> None:
        super().__init__()
        down, up = halvings(config.layers), doublings(config.layers)
        grids = [layer.side * 2 ** (up - down) for layer in map(Layer.parse, config.layers) if layer.side]
        self.side = grids[0] if grids else None
        if up < down:
            raise ValueError(f"the layers halve the features {down} times, but double them only {up} times")
        self.multiple = 2**down
        self.stride = 2 ** (up - down)
        self.log_floor = config.log_floor
        self.layers = chain(in_channels, config.layers, last_is_image=True)
        first_up = next(i for i, layer in enumerate(map(Layer.parse, config.layers)) if layer.kind == "up")
        self._first_up, self.encoded_channels = first_up, out_channels(in_channels, config.layers[:first_up])

    def encode(self, features: torch.Tensor) -> list[torch.Tensor]:
        return [UpConvChain(*list(self.layers)[: self._first_up])(features)]

    def stages(self) -> list[Stage]:
        return []

    def to_image(self) -> UpConvChain:
        return UpConvChain(*list(self.layers)[self._first_up :])


class UShaped(Architecture):
    """See `UShapedConfig`."""

    def __init__(self, in_channels: int, config: UShapedConfig) -> None:
        super().__init__()
        widths = config.widths
        self.encoded_channels = widths[-1]
        down, up = halvings(config.entry), doublings(config.entry) + len(config.head) + 1
        if up < down:
            raise ValueError(f"the entry halves the features {down} times, but the rest doubles them only {up} times")
        self.margin = config.margin
        self.multiple = max(1, 2 ** (len(widths) - 1 + down - doublings(config.entry)))
        self.stride = 2 ** (up - down)
        self.standardized = not config.splat_levels
        if config.splat_levels and in_channels not in keypoint_splat.CHANNELS:
            known = " or ".join(map(str, keypoint_splat.CHANNELS))
            raise ValueError(f"splat_levels is for the {known} channels of sparse SIFT, not {in_channels}")
        grid_channels = in_channels
        self.entry: nn.Module = nn.Identity()
        if config.entry:
            self.entry = chain(in_channels, config.entry)
            in_channels = out_channels(in_channels, config.entry)
        self.splat: keypoint_splat.KeypointSplat | None = None
        if config.splat_levels:
            self.splat = keypoint_splat.KeypointSplat(
                self.stride, self.stride * 2**down, config.splat_levels, grid_channels
            )
            in_channels += self.splat.out_channels
        self.stem = ConvLayer(in_channels, widths[0])
        repeats = [size >= len(widths) - config.repeat_edges for size in range(len(widths))]
        steps = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(
            ConvLayer(fine, coarse, 3, 2, repeat_edges=edges)
            for (fine, coarse), edges in zip(steps, repeats[:-1], strict=True)
        )
        self.up = nn.ModuleList(
            UpLayer(coarse, fine, repeat_edges=edges) for (fine, coarse), edges in zip(steps, repeats[1:], strict=True)
        )
        self.blocks_down = nn.ModuleList(map(_blocks, widths, config.blocks_down, repeats))
        self.blocks_up = nn.ModuleList(map(_blocks, widths, config.blocks_up, repeats))
        head = [f"up {channels}" for channels in (*config.head, 3)]
        self.head = chain(widths[0], head, last_is_image=True)

    def encode(self, features: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(self._entered(features))
        skips = []
        for down, blocks in zip(self.down, self.blocks_down, strict=False):
            x = blocks(x)
            skips.append(x)
            x = down(x)
        return [*skips, x]

    def stages(self) -> list[Stage]:
        enlarging = zip(reversed(self.up), reversed(self.blocks_up), strict=True)
        return [(nn.Identity(), self.blocks_down[-1]), *enlarging]

    def to_image(self) -> UpConvChain:
        return self.head

    def _entered(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features at the resolution of the first size, the input of the stem."""
        if self.splat is None:
            return self.entry(features)
        entered = self.entry(self.splat.scaled(features))
        return torch.cat((entered, self.splat(features).to(entered)), dim=1)


def run_stages(
    stages: Iterable[Stage],
    encoded: Sequence[torch.Tensor],
    add_noise: Callable[[int, torch.Tensor], torch.Tensor] = lambda _, x: x,
) -> torch.Tensor:
    """Return the output of stages for the output of the encoder.

    Args:
        stages: The stages, see `Architecture.stages`.
        encoded: Skips and the map that the first stage takes.
        add_noise: Called with the index of each stage and its map before that is refined; returns the map to refine.
    """
    *skips, x = encoded
    for index, (enlarge, refine) in enumerate(stages):
        x = enlarge(x)
        if skips and not isinstance(enlarge, nn.Identity):
            x = x + skips.pop()
        x = refine(add_noise(index, x))
    return x


def _blocks(channels: int, count: int, repeat_edges: bool) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels, repeat_edges=repeat_edges) for _ in range(count)))


_LATER_FIELDS = frozenset({"entry", "margin", "splat_levels", "log_floor"})

_NETWORKS: dict[str, tuple[type[Any], type[Any]]] = {
    config.architecture: (config, network)
    for config, network in (
        (TwoStreamConfig, TwoStream),
        (SingleStreamConfig, SingleStream),
        (UShapedConfig, UShaped),
    )
}


def build(in_channels: int, config: ArchitectureConfig) -> Architecture:
    """Return the network of a config, initialized from torch's global random state."""
    return _NETWORKS[config.architecture][1](in_channels, config)


def config_to_dict(config: ArchitectureConfig) -> dict[str, Any]:
    """Return a config as plain JSON values; `config_from_dict` is the inverse."""
    return {"architecture": config.architecture, **dataclasses.asdict(config)}


def config_from_dict(fields: Mapping[str, Any]) -> ArchitectureConfig:
    """Return the config of `config_to_dict`; ``ValueError`` for unknown, missing and invalid fields."""
    kind, given = _kind_and_fields(fields)
    known = {field.name for field in dataclasses.fields(kind)}
    # Fields that were added later have defaults, which are those of files written before.
    if not known - _LATER_FIELDS <= set(given) <= known:
        raise ValueError(f"{kind.architecture} has the fields {sorted(known)}, got {sorted(given)}")
    try:
        return kind(**given)
    except TypeError as error:  # a value of another type
        raise ValueError(str(error)) from error


def config_from_preset(fields: Mapping[str, Any]) -> ArchitectureConfig:
    """Return the config of a preset: as `config_from_dict`, where fields with a default may be left out."""
    kind, given = _kind_and_fields(fields)
    return kind(**given)


def _kind_and_fields(fields: Mapping[str, Any]) -> tuple[type[Any], dict[str, Any]]:
    if not isinstance(fields, Mapping):
        raise ValueError(f"an architecture must be a JSON object, got {type(fields).__name__}")
    name = fields.get("architecture")
    if not isinstance(name, str) or name not in _NETWORKS:
        raise ValueError(f"unknown architecture {name!r}, known are {', '.join(sorted(_NETWORKS))}")
    fields = renamed(fields, ARCHITECTURE_FIELDS)
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    del given["architecture"]
    return _NETWORKS[name][0], given
