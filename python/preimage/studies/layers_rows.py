"""The rows of the study of layers: which inverter goes with which representation, and which share a pass."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch

from preimage.inverters import Inverter
from preimage.pipelines.choosing import NamedInverter, named_inverter
from preimage.representations import Representation, representation_from_spec
from preimage.representations.base import NETWORK
from preimage.spec import Spec

_ALEXNET = "alexnet-"

SharedPass = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]


class HasLayers(Protocol):
    """A network whose layers are representations, for example a `preimage.Network`."""

    def representation(self, layer: str, layout: str = "auto") -> Representation:
        """One layer of it; ``ValueError`` where there is none of that name."""


@dataclasses.dataclass(frozen=True, eq=False)
class LayerRow:
    """A layer and the inverter of its features.

    Attributes:
        label: what pictures, plot and table call it; each row has its own.
        representation: makes the features.
        inverter: takes them; of the same spec.
        origin: the inverter's folder or name, for the table.
        shared: images (B, 3, S, S) uint8 → features of several layers, by layer. Rows with the same object here are
            computed together, in one pass; without it `representation` is called.
        layer: this row's in what `shared` gives.
    """

    label: str
    representation: Representation
    inverter: Inverter
    origin: str = ""
    shared: SharedPass | None = None
    layer: str = ""


def rows_for(inverters: Sequence[NamedInverter], networks: Sequence[HasLayers | Representation] = ()) -> list[LayerRow]:
    """A row for each inverter, in the order given; layers of one network share a pass.

    Args:
        inverters: folders, pretrained names, or inverters.
        networks: what has the layers that no name of ours stands for: networks, or single representations. No file
            makes us import a network, so whoever asks brings it.

    Raises:
        ValueError: no inverter; one whose representation is not known, or is a layer of none of the networks (says what
            differs); two for one layer.
        OSError: a network's weights are not there.
    """
    if not inverters:
        raise ValueError("the study of layers takes at least one inverter (--inverter NAME_OR_FOLDER)")
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
    """What the layer is of: a network's name, ``alexnet caffenet``, or ``hog`` for what is no layer."""
    if spec.representation == NETWORK:
        return spec.variant
    return f"alexnet {spec.variant}" if spec.representation.startswith(_ALEXNET) else spec.representation


def layer_name(spec: Spec) -> str:
    """The layer's name in its network (``output`` for the network's own output), or the representation's."""
    if "layer" in spec.parameters:
        return str(spec.parameters["layer"]) or "output"
    return spec.representation.removeprefix(_ALEXNET)


def _representation(spec: Spec, origin: str, networks: Sequence[HasLayers | Representation]) -> Representation:
    if spec.representation != NETWORK and not any(getattr(one, "spec", None) == spec for one in networks):
        try:
            return representation_from_spec(spec)
        except ValueError as error:
            raise ValueError(f"inverter {origin or spec.representation}: {error}") from error
    asked = f"inverter {origin or spec.representation} is for {layer_name(spec)!r} of the network {spec.variant}"
    if not networks:
        raise ValueError(f"{asked}: name that (--network torch:package.module:factory, --weights FILE)")
    refusals: list[list[str]] = []
    for network in networks:
        try:
            candidate = _candidate(network, spec)
        except ValueError as error:  # it has no such layer: further away than one that differs in a few fields
            refusals.append([str(error)])
            continue
        differences = spec.differences(candidate.spec)
        if not differences:
            return candidate
        refusals.insert(0, differences)
    nearest = "; ".join(refusals[0])
    raise ValueError(f"{asked}, and none given with --network makes these features (inverter != network): {nearest}")


def _candidate(network: HasLayers | Representation, spec: Spec) -> Representation:
    if isinstance(network, Representation):
        return network
    layer, layout = (str(spec.parameters.get(name, default)) for name, default in (("layer", ""), ("layout", "auto")))
    return network.representation(layer, layout)


def _labels(specs: Sequence[Spec]) -> list[str]:
    """The layers' names, as the paper writes AlexNet's; with their network's where two are called the same."""
    alexnet = [spec.representation.startswith(_ALEXNET) for spec in specs]
    labels = [layer_name(spec).upper() if ours else layer_name(spec) for spec, ours in zip(specs, alexnet, strict=True)]
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
        if seen[label] > 1:  # the same layer with other weights
            labels[index] = f"{label} ({seen[label]})"
    return labels


def _sharing(rows: Sequence[LayerRow]) -> list[LayerRow]:
    """The rows, with one pass for those that are layers of one network."""
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
    """Which pass it belongs to, its layer there, and the function (images, names) of the pass."""
    layer = getattr(representation, "layer", None)
    if not isinstance(layer, str):
        return None
    network: Any = getattr(representation, "network", None)
    if hasattr(network, "layers"):
        layout = getattr(representation, "layout", "auto")
        return (id(network), layout), layer, functools.partial(network.layers, layout=layout)
    return None
