"""Create the rows of the study of layers: inverters with their representations, and shared forward passes."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch

from preimage.inverters import Inverter
from preimage.pipelines.inverter_choice import NamedInverter, named_inverter
from preimage.representations import Representation, representation_from_spec
from preimage.representations.base import NETWORK
from preimage.spec import Spec

_ALEXNET = "alexnet-"

SharedPass = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]


class HasLayers(Protocol):
    """A network whose layers are representations, such as `preimage.Network`."""

    def representation(self, layer: str, output_layout: str = "auto") -> Representation:
        """Return one of its layers; ``ValueError`` if there is none of that name."""


@dataclasses.dataclass(frozen=True, eq=False)
class LayerRow:
    """A layer with the inverter of its features.

    Attributes:
        label: Label of the layer on sheet, plot and table, unique among the rows.
        representation: Representation that computes the features.
        inverter: Inverter of the features; its spec must be that of the representation.
        origin: Folder or name of the inverter, for the table.
        shared: Function of images (B, 3, S, S) uint8 that computes the features of several layers by name. Rows with
            the same function are computed together in one call; ``None`` calls `representation`.
        layer: Key of this row's layer in the result of `shared`.
    """

    label: str
    representation: Representation
    inverter: Inverter
    origin: str = ""
    shared: SharedPass | None = None
    layer: str = ""


def rows_for(inverters: Sequence[NamedInverter], networks: Sequence[HasLayers | Representation] = ()) -> list[LayerRow]:
    """Return a row for each inverter, in the order given; layers of one network share a forward pass.

    Args:
        inverters: Folders, pretrained names, or inverters.
        networks: Networks, or single representations, for inverters of layers that cannot be created by name. Files
            never cause a network to be imported, so the caller must provide it.

    Raises:
        ValueError: There is no inverter; an inverter's representation is unknown, or not a layer of any of the networks
            (states the differences); there are two inverters for one layer.
        OSError: A network's weights are missing.
    """
    if not inverters:
        raise ValueError("the study of layers needs at least one inverter (--inverter NAME_OR_FOLDER)")
    found: list[LayerRow] = []
    for choice in inverters:
        inverter, _ = named_inverter(choice)
        origin = "" if isinstance(choice, Inverter) else str(choice)
        for other in found:
            if other.inverter.spec == inverter.spec:
                both = f"{other.origin or 'an inverter'} and {origin or 'an inverter'}"
                raise ValueError(f"two inverters for the same layer, {layer_name(inverter.spec)}: {both}")
        found.append(LayerRow("", _representation(inverter.spec, origin, networks), inverter, origin))
    labels = _labels([row.inverter.spec for row in found])
    return _sharing([dataclasses.replace(row, label=label) for row, label in zip(found, labels, strict=True)])


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


def _sharing(rows: Sequence[LayerRow]) -> list[LayerRow]:
    """Return the rows, with one shared forward pass for layers of one network."""
    groups: dict[Hashable, list[str]] = {}
    passes = [_pass_of(row.representation) for row in rows]
    for one in passes:
        if one is not None:
            groups.setdefault(one[0], []).append(one[1])
    shared: dict[Hashable, SharedPass] = {}
    for one in passes:
        if one is not None and len(groups[one[0]]) > 1 and one[0] not in shared:
            shared[one[0]] = functools.partial(one[2], names=groups[one[0]])
    return [
        row if one is None or one[0] not in shared else dataclasses.replace(row, shared=shared[one[0]], layer=one[1])
        for row, one in zip(rows, passes, strict=True)
    ]


def _pass_of(representation: Any) -> tuple[Hashable, str, Callable[..., Mapping[str, torch.Tensor]]] | None:
    """Return the identity of the forward pass, the layer in it, and the function of images and names that runs it."""
    layer = getattr(representation, "layer", None)
    if not isinstance(layer, str):
        return None
    network: Any = getattr(representation, "network", None)
    if hasattr(network, "layers"):
        output_layout = getattr(representation, "output_layout", "auto")
        return (id(network), output_layout), layer, functools.partial(network.layers, output_layout=output_layout)
    return None
