"""Which inverter goes with which features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from os import PathLike

from preimage import inverters, representations
from preimage.inverters import Inverter
from preimage.inverters.files import read_config, resolve
from preimage.representations import Representation
from preimage.spec import Spec

NamedInverter = Inverter | str | PathLike[str]
InverterChoice = NamedInverter | None
InverterChoices = InverterChoice | Sequence[NamedInverter]
RepresentationChoices = Representation | str | Sequence[Representation | str] | None


def fitting_inverter(choice: InverterChoice, spec: Spec, features_name: str) -> Inverter:
    """The inverter asked for, or the shipped one that fits.

    Args:
        choice: an inverter, a shipped name, a folder, or ``None`` to look for one among the shipped.
        spec: of the features to invert.
        features_name: what to call them in messages.

    Raises:
        ValueError: the inverter is for other features; names the fields that differ.
        LookupError: no shipped inverter fits.
    """
    if choice is None:
        if spec.representation not in shipped_specs():
            raise LookupError(
                f"no inverter for {spec.representation} is shipped: train one and name it (--inverter NAME_OR_FOLDER)"
            )
        try:
            choice = inverters.find(spec)
        except LookupError as error:
            raise LookupError(f"{features_name}: {error} (--inverter NAME_OR_FOLDER)") from error
    inverter = choice if isinstance(choice, Inverter) else Inverter.load(choice)
    _check_fit(choice, inverter, spec, features_name)
    return inverter


def shipped_specs() -> dict[str, Spec]:
    """What the shipped inverters are for, by representation; of several for one, the first by name."""
    specs = [Spec.from_dict(read_config(resolve(name))["spec"]) for name in inverters.shipped()]
    return {spec.representation: spec for spec in reversed(specs)}


def sift_inverter(choice: InverterChoice, variant: str) -> tuple[Inverter, str]:
    """The inverter asked for, or the shipped one for sparse SIFT, and what to call it.

    Args:
        choice: as for `fitting_inverter`.
        variant: of the detector that found the keypoints; an inverter for the other is taken if there is none for it.

    Raises:
        LookupError: none for sparse SIFT is shipped.
    """
    if choice is None:
        specs = {name: Spec.from_dict(read_config(resolve(name))["spec"]) for name in inverters.shipped()}
        fitting = [name for name, spec in specs.items() if spec.representation == "sift"]
        if not fitting:
            raise LookupError(
                "no inverter for sift keypoints is shipped: train one and name it (--inverter NAME_OR_FOLDER)"
            )
        choice = min(fitting, key=lambda name: specs[name].variant != variant)
    if isinstance(choice, Inverter):
        return choice, choice.spec.representation
    return Inverter.load(choice), str(choice)


def name_of(choice: InverterChoice, spec: Spec) -> str:
    """What to call the inverter in a summary."""
    if choice is None:
        return inverters.find(spec)
    return choice.spec.representation if isinstance(choice, Inverter) else str(choice)


@dataclasses.dataclass(frozen=True)
class Pairing:
    """A representation and the inverter for it.

    Attributes:
        representation: computes the features.
        inverter: takes them; ``None`` if there is none.
        name: of the inverter, or its folder; ``None`` if there is none.
        missing: why there is none, one line; else empty.
    """

    representation: Representation
    inverter: Inverter | None
    name: str | None
    missing: str


def pairings(inverter: InverterChoices, representation: RepresentationChoices) -> list[Pairing]:
    """For each representation the inverter that was asked for, or the shipped one that fits, if there is one.

    Args:
        inverter: any number of them, each for another representation.
        representation: any number; a name stands for the parameters that its inverter takes, or else for the default
            ones. ``None``: what the inverters are for, or HOG if there are none.

    Raises:
        ValueError: an inverter for none of the representations, or for other parameters; two for one; a name that is
            not known.
    """
    chosen = _by_representation(_inverters(inverter))
    asked: list[Representation | str]
    if isinstance(representation, str | Representation):
        asked = [representation]
    else:
        asked = list(representation or chosen or ["hog"])
    names = [one if isinstance(one, str) else one.name for one in asked]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(repeated)} asked for more than once")
    for name, (choice, network) in chosen.items():
        if name not in names:
            raise ValueError(f"inverter {name_of(choice, network.spec)} is for {name}, not for {', '.join(names)}")
    return [_pairing(one, chosen.get(name)) for one, name in zip(asked, names, strict=True)]


def _inverters(choices: InverterChoices) -> list[NamedInverter]:
    if choices is None:
        return []
    return [choices] if isinstance(choices, Inverter | str | PathLike) else list(choices)


def _by_representation(choices: list[NamedInverter]) -> dict[str, tuple[NamedInverter, Inverter]]:
    chosen: dict[str, tuple[NamedInverter, Inverter]] = {}
    for choice in choices:
        network = choice if isinstance(choice, Inverter) else Inverter.load(choice)
        name = network.spec.representation
        if name in chosen:
            raise ValueError(f"two inverters for {name}: {name_of(chosen[name][0], network.spec)} and {choice}")
        chosen[name] = choice, network
    return chosen


def _pairing(asked: Representation | str, chosen: tuple[NamedInverter, Inverter] | None) -> Pairing:
    if chosen is None:
        representation = representations.create(asked) if isinstance(asked, str) else asked
        spec = representation.spec
        try:
            network = fitting_inverter(None, spec, f"{spec.representation} features")
            return Pairing(representation, network, name_of(None, spec), "")
        except LookupError as error:
            return Pairing(representation, None, None, str(error))
    choice, network = chosen
    representation = representations.from_spec(network.spec) if isinstance(asked, str) else asked
    _check_fit(choice, network, representation.spec, f"{representation.name} features")
    return Pairing(representation, network, name_of(choice, network.spec), "")


def _check_fit(choice: NamedInverter, inverter: Inverter, spec: Spec, features_name: str) -> None:
    if differences := inverter.spec.differences(spec):
        named = "the inverter" if isinstance(choice, Inverter) else f"inverter {choice}"
        raise ValueError(f"{named} does not fit {features_name} (inverter != features): {'; '.join(differences)}")
