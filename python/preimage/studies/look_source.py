"""Provide the features of a look: of layers of a network, or from a file of the user."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from preimage.inverters.auto import auto
from preimage.io import Listing
from preimage.representations import Representation, create_representation, list_representations
from preimage.representations.network import Network
from preimage.representations.network_factory import load_network
from preimage.representations.network_libraries import RANDOM_MARK, has_timm_config, timm_preprocessing
from preimage.representations.preprocessing import PREPROCESSINGS, Preprocessing, check_preprocessing
from preimage.spec import Spec
from preimage.studies.look_layers import ChosenLayer, choose_layers, parse_layers
from preimage.training.config import TrainConfig
from preimage.training.precomputed_dataset import image_size_of, match_features, open_feature_file

Encoder = Network | nn.Module | str


class NetworkFeatures:
    """The features of several layers of a network.

    Args:
        network: The network.
        layers: The layers.
        named: Name of a representation that is a layer of this network, whose other layers then have specs of that
            representation too; empty for a network without one.
        weights: Weights that the representation was created with; empty for its default ones.
    """

    def __init__(self, network: Network, layers: Sequence[ChosenLayer], named: str = "", weights: str = "") -> None:
        self.network, self.layers, self.side = network, list(layers), network.image_size
        self.representations: dict[str, Representation] = {
            layer.label: _representation(network, layer, named, weights) for layer in layers
        }
        self.specs: Mapping[str, Spec] = {label: one.spec for label, one in self.representations.items()}
        shapes = [network.shapes([layer.name], layer.output_layout)[layer.name].features for layer in layers]
        self.shapes = dict(zip(self.specs, shapes, strict=True))

    @property
    def name(self) -> str:
        """Name of the network on the page."""
        return self.network.name.removesuffix(RANDOM_MARK)

    @property
    def is_random(self) -> bool:
        """Whether the weights are known to be random."""
        return self.network.name.endswith(RANDOM_MARK)

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the features of images (B, 3, side, side) uint8 by label, in one pass for each output layout."""
        found: dict[str, torch.Tensor] = {}
        for layout in dict.fromkeys(layer.output_layout for layer in self.layers):
            group = [layer for layer in self.layers if layer.output_layout == layout]
            computed = self.network.layers(images, [layer.name for layer in group], layout)
            found |= {layer.label: computed[layer.name] for layer in group}
        return {layer.label: found[layer.label] for layer in self.layers}


def open_network(
    encoder: Encoder,
    layers: Sequence[str] | None,
    layer_count: int,
    *,
    weights: str | None,
    preprocessing: Preprocessing | str | None,
    input_size: int | None,
) -> NetworkFeatures:
    """Return the features of the chosen layers; parameters and errors as in `preimage.look`."""
    named = ""
    if isinstance(encoder, str):
        network, named = _by_name(encoder, weights, preprocessing, input_size)
    else:
        if weights is not None:
            raise ValueError(f"weights are for networks given by name, got {weights!r} with a {type(encoder).__name__}")
        network = _of_module(encoder, preprocessing, input_size)
    if layers is None:
        chosen = choose_layers(network.trace(), network.image_size, layer_count)
    else:
        chosen = parse_layers([layers] if isinstance(layers, str) else list(layers), network)
    return NetworkFeatures(network, chosen, named, weights or "")


def check_inverter(label: str, shape: tuple[int, ...], image_size: int, output_size: int, budget: int) -> None:
    """Raise ``ValueError`` unless there is an inverter within the budget for features (C, h, w) or (C,)."""
    if len(shape) == 3 and shape[1] != shape[2]:
        raise ValueError(f"{label}: features must be square maps or vectors, got (C, h, w) = {shape}")
    try:
        auto(shape[0], shape[1] if len(shape) == 3 else None, image_size, output_size, budget)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error


def refuse_with_features(**given: object) -> None:
    """Raise ``ValueError`` if an argument is given that describes a network."""
    if names := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"{', '.join(names)} must not be given with features, which are those of one layer")


def _by_name(
    name: str, weights: str | None, preprocessing: Preprocessing | str | None, input_size: int | None
) -> tuple[Network, str]:
    """Return the network of a name, and the name if it is that of a representation."""
    if isinstance(preprocessing, Preprocessing):
        raise TypeError(
            f"preprocessing of a network given by name must be one of {', '.join(PREPROCESSINGS)}, got a Preprocessing"
        )
    if name not in list_representations():
        return load_network(name, weights=weights, preprocessing=preprocessing, input_size=input_size), ""
    given: dict[str, Any] = {"weights": weights, "preprocessing": preprocessing, "input_size": input_size}
    made = create_representation(name, **{key: value for key, value in given.items() if value is not None})
    network = getattr(made, "network", None)
    if not isinstance(network, Network):
        raise ValueError(
            f"{name} has no layers: the encoder must be timm:NAME, hf:NAME, torch:package.module:factory or a "
            f"representation that is a layer of a network; for {name} use `preimage train {name}`"
        )
    return network, name


def _of_module(
    module: Network | nn.Module, preprocessing: Preprocessing | str | None, input_size: int | None
) -> Network:
    if isinstance(module, Network):
        if preprocessing is not None or input_size is not None:
            raise ValueError("a preimage.Network has its own preprocessing: omit preprocessing and input_size")
        return module
    if not isinstance(module, nn.Module):
        raise TypeError(f"network must be a name, a preimage.Network or a torch.nn.Module, got {type(module).__name__}")
    if isinstance(preprocessing, Preprocessing):
        return Network(module, preprocessing, image_size=input_size)
    if preprocessing is not None:
        check_preprocessing(preprocessing)
        return Network(module, PREPROCESSINGS[preprocessing](224 if input_size is None else input_size))
    if has_timm_config(module):
        return Network(module, timm_preprocessing(module, input_size))
    raise ValueError(
        f"preprocessing must be given for a {type(module).__name__}, which does not say how its images are normalized: "
        f"preimage.Preprocessing(image_size), or one of {', '.join(PREPROCESSINGS)} with input_size"
    )


def _representation(network: Network, layer: ChosenLayer, named: str, weights: str) -> Representation:
    """Return the representation of a layer, by its own name in the package if it has one."""
    if named and layer.output_layout == "auto":
        parameters: dict[str, Any] = {"weights": weights} if weights else {}
        sibling = f"{named.rpartition('-')[0]}-{layer.name}"
        if sibling in list_representations():
            return create_representation(sibling, **parameters)
        try:
            return create_representation(named, layer=layer.name, **parameters)
        except ValueError:  # not one of the layers that have names
            pass
    return network.representation(layer.name, layer.output_layout)


class FileFeatures:
    """User-provided features of photographs.

    Args:
        path: File or feature store.
        listing: The photographs.
        output: Folder of the look.
        size: Side of the images that the features were computed from, if the file does not state it.
        note: Function called with warnings.

    Attributes:
        listing: The photographs that have features.
        side: Side of the images in pixels.

    Raises:
        ValueError: No features match, or the size of the images is not that in the file.
        FileFormatError: The file is damaged or of another format.
    """

    is_random = False

    def __init__(
        self, path: str, listing: Listing, output: Path, size: int | None, note: Callable[[str], None]
    ) -> None:
        config = TrainConfig(features=path, images=("-",), output=str(output), size=size)
        self.path = path
        self._file, _ = open_feature_file(config)
        self.side = image_size_of(self._file, size)
        pairs = match_features(listing.sources, self._file, allow_missing=True, note=note)
        self._positions = {source.key: position for source, position in pairs}
        self.listing = dataclasses.replace(listing, sources=[source for source, _ in pairs])
        layer = self._file.spec.parameters.get("layer")
        label = str(layer) if layer else self._file.spec.representation
        self.specs: Mapping[str, Spec] = {label: self._file.spec}
        self.shapes = {label: tuple(self._file[pairs[0][1]].shape)}

    @property
    def name(self) -> str:
        """Name of the file on the page."""
        return Path(self.path).name

    def rows(self, keys: Sequence[str]) -> torch.Tensor:
        """Return the features (N, ...) of some photographs."""
        return torch.from_numpy(np.stack([self._file[self._positions[key]] for key in keys])).float()
