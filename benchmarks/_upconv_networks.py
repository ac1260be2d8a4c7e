"""The up-convolutions of every network that the package knows, and the passes that each of them takes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import torch

from _decoders import DECODERS, LayerShape
from _upconv_check import Problem
from preimage.inverters.architectures import UShapedConfig, build
from preimage.inverters.presets import preset, preset_names
from preimage.nn import UpConv2d
from preimage.ops.upconv import configs
from preimage.representations import list_representations

IMAGE_SIZE = 256
BATCH = 64  # of a training step


@functools.cache
def networks() -> dict[str, tuple[LayerShape, ...]]:
    """Return the layers of the benchmarks' decoders and of every preset, by name, for images of 256²."""
    found = {name: DECODERS[name] for name in ("H", "F")}
    for representation in list_representations():
        for name in preset_names(representation):
            config = preset(representation, name)
            if isinstance(config, UShapedConfig):  # where keypoints are drawn depends on the features: here are none
                config = dataclasses.replace(config, splat_levels=0)
            with torch.device("meta"):
                network = build(64, config)
                cells = () if network.side else (IMAGE_SIZE // network.stride,) * 2
                found[f"{representation}/{name}"] = _layers(network, torch.empty(1, 64, *cells))
    return found


def _layers(network: torch.nn.Module, features: torch.Tensor) -> tuple[LayerShape, ...]:
    """Return a network's up-convolutions in the order in which they run."""
    layers: list[LayerShape] = []

    def note(module: UpConv2d, inputs: tuple[torch.Tensor, ...]) -> None:
        side = inputs[0].shape[-1] + 2 * getattr(module, "repeat_edges", False)
        layers.append(LayerShape(side, *module.weight.shape[:2], module.negative_slope))

    for module in network.modules():
        if isinstance(module, UpConv2d):
            module.register_forward_pre_hook(note)
    network(features)
    return tuple(layers)


def problems(layers: Iterable[LayerShape]) -> list[Problem]:
    """Return every pass of the layers that a kernel may run, each once; forward also for one image, as in inference."""
    found = [
        Problem(which, layer.in_channels, layer.out_channels, layer.side, batch)
        for layer in layers
        for which in configs.PASSES
        for batch in ((BATCH, 1) if which == "forward" else (BATCH,))
        if which not in configs.IMAGE_PASSES or layer.out_channels <= configs.IMAGE_CHANNELS
    ]
    return list(dict.fromkeys(found))
