"""Find the representations of inverters and the labels of their layers, for studies of several layers."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from os import PathLike
from typing import Any, NamedTuple, Protocol

from preimage.inverters import Inverter
from preimage.pipelines.inverter_choice import NamedInverter, named_inverter
from preimage.representations import Representation, representation_from_spec
from preimage.representations.base import NETWORK
from preimage.spec import Spec

_ALEXNET = "alexnet-"


class HasLayers(Protocol):
    """A network whose layers are representations, such as `preimage.Network`."""

    def representation(self, layer: str, output_layout: str = "auto") -> Representation:
        """Return one of its layers; ``ValueError`` if there is none of that name."""


Inverters = NamedInverter | Sequence[NamedInverter]
Networks = HasLayers | Representation | Sequence[HasLayers | Representation]


@dataclasses.dataclass(frozen=True, eq=False)
class LayerRow:
    """A layer with the inverter of its features.

    Attributes:
        label: Label of the layer on sheet, plot and table, unique among the rows.
        representation: Representation that computes the features.
        inverter: Inverter of the features; its spec must be that of the representation.
        origin: Folder or name of the inverter, for the table.
    """

    label: str
    representation: Representation
    inverter: Inverter
    origin: str = ""


def rows_for(inverter: Inverters, network: Networks = ()) -> list[LayerRow]:
    """Return a row for each inverter, in the order given.

    Args:
        inverter: Folders, pretrained names, or inverters; also a single one.
        network: Networks, or single representations, for inverters of layers that cannot be created by name; also a
            single one. Files never cause a network to be imported, so the caller must provide it.

    Raises:
        ValueError: There is no inverter; an inverter's representation is unknown, or not a layer of any of the networks
            (states the differences); there are two inverters for one layer.
        OSError: A network's weights are missing.
    """
    inverters = [inverter] if isinstance(inverter, str | PathLike | Inverter) else list(inverter)
    networks = list(network) if isinstance(network, Sequence) else [network]
    if not inverters:
        raise ValueError("at least one inverter is needed (--inverter NAME_OR_FOLDER), got none")
    found: list[LayerRow] = []
    for choice in inverters:
        loaded, _ = named_inverter(choice)
        origin = "" if isinstance(choice, Inverter) else str(choice)
        for other in found:
            if other.inverter.spec == loaded.spec:
                both = f"{other.origin or 'an inverter'} and {origin or 'an inverter'}"
                raise ValueError(f"two inverters for the same layer, {layer_name(loaded.spec)}: {both}")
        found.append(LayerRow("", _representation(loaded.spec, origin, networks), loaded, origin))
    labels = _labels([row.inverter.spec for row in found])
    return [dataclasses.replace(row, label=label) for row, label in zip(found, labels, strict=True)]


class ForwardPass(NamedTuple):
    """A layer in the forward pass of its network: layers with the same `key` can be computed together."""

    network: Any
    layer: str
    output_layout: str

    @property
    def key(self) -> tuple[int, str]:
        """Identity of the network, and the layout of the features."""
        return id(self.network), self.output_layout


def forward_pass(representation: Any) -> ForwardPass | None:
    """Return the forward pass that computes a representation; ``None`` if it is not a layer of a network."""
    layer, network = getattr(representation, "layer", None), getattr(representation, "network", None)
    if not isinstance(layer, str) or not hasattr(network, "layers"):
        return None
    return ForwardPass(network, layer, getattr(representation, "output_layout", "auto"))


def network_name(spec: Spec) -> str:
    """Return the name of the layer's network, such as ``alexnet caffenet``, or a representation such as ``hog``."""
    if spec.representation == NETWORK:
        return spec.variant
    return f"alexnet {spec.variant}" if spec.representation.startswith(_ALEXNET) else spec.representation


def layer_name(spec: Spec) -> str:
    """Return the layer's name in its network (``output`` for the network's output), or the representation's name."""
    if "layer" in spec.parameters:
        return str(spec.parameters["layer"]) or "output"
    return spec.representation.removeprefix(_ALEXNET)


def _representation(spec: Spec, origin: str, networks: Sequence[HasLayers | Representation]) -> Representation:
    if spec.representation != NETWORK and not any(getattr(one, "spec", None) == spec for one in networks):
        try:
            return representation_from_spec(spec)
        except ValueError as error:
            raise ValueError(f"inverter {origin or spec.representation}: {error}") from error
    wanted = f"inverter {origin or spec.representation} is for {layer_name(spec)!r} of the network {spec.variant}"
    if not networks:
        raise ValueError(f"{wanted}: name it (--network torch:package.module:factory,weights=FILE)")
    refusals: list[list[str]] = []
    for network in networks:
        try:
            candidate = _candidate(network, spec)
        except ValueError as error:  # no such layer, which is less similar than a layer that differs in a few fields
            refusals.append([str(error)])
            continue
        differences = spec.differences(candidate.spec)
        if not differences:
            return candidate
        refusals.insert(0, differences)
    nearest = "; ".join(refusals[0])
    raise ValueError(f"{wanted}, and no network of --network computes these features (inverter != network): {nearest}")


def _candidate(network: HasLayers | Representation, spec: Spec) -> Representation:
    if isinstance(network, Representation):
        return network
    parameters = spec.parameters
    return network.representation(str(parameters.get("layer", "")), str(parameters.get("output_layout", "auto")))


def _labels(specs: Sequence[Spec]) -> list[str]:
    """Return the layers' names, AlexNet's in capitals as in the paper, with their network's name if two are equal."""
    alexnet = [spec.representation.startswith(_ALEXNET) for spec in specs]
    labels = [
        layer_name(spec).upper() if capitals else layer_name(spec)
        for spec, capitals in zip(specs, alexnet, strict=True)
    ]
    often = Counter(labels)
    full = [network_name(spec).removeprefix("torch:") for spec in specs]
    for networks in ([re.split(r"[.: ]", name)[-1] for name in full], full):
        named = [f"{name} {label}" if often[label] > 1 else label for name, label in zip(networks, labels, strict=True)]
        if len(set(named)) == len(named):
            return named
    labels = named
    seen: Counter[str] = Counter()
    for index, label in enumerate(labels):
        seen[label] += 1
        if seen[label] > 1:  # the same layer, but other weights
            labels[index] = f"{label} ({seen[label]})"
    return labels
