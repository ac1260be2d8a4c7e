"""Choose the inverter for features, and the representation for an inverter."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from os import PathLike

from preimage.inverters import Inverter, pretrained
from preimage.representations import Representation, create_representation, representation_from_spec
from preimage.spec import Spec

NamedInverter = Inverter | str | PathLike[str]
InverterChoice = NamedInverter | None
InverterChoices = InverterChoice | Sequence[NamedInverter]
RepresentationChoices = Representation | str | Sequence[Representation | str] | None


def fitting_inverter(choice: InverterChoice, spec: Spec, features_name: str) -> tuple[Inverter, str]:
    """Return the chosen inverter, or the pretrained one for the features; and its name.

    Args:
        choice: Inverter, its name or folder, or ``None`` for the pretrained inverter of the features.
        spec: Spec of the features to invert.
        features_name: Name of the features in messages.

    Raises:
        ValueError: An inverter for other features; the message names the fields that differ.
        LookupError: No pretrained inverter for these features.
    """
    if choice is None:
        _check_pretrained(spec.representation)
        try:
            return _pretrained_inverter(pretrained.find_inverter(spec))
        except LookupError as error:
            raise LookupError(f"{features_name}: {error} (--inverter NAME_OR_FOLDER)") from error
    inverter, name = named_inverter(choice)
    _check_fit(name, inverter, spec, features_name)
    return inverter, name


def sift_inverter(choice: InverterChoice, variant: str, *, color: bool = False) -> tuple[Inverter, str]:
    """Return the chosen inverter, or the pretrained one for sparse SIFT; and its name.

    Args:
        choice: As in `fitting_inverter`.
        variant: Variant of the detector that found the keypoints; inverters for this variant are preferred.
        color: Whether the keypoints have colors; inverters that use them are preferred above all, and those that do not
            for keypoints without.

    Raises:
        ValueError: An inverter for another representation.
        LookupError: No pretrained inverter for sparse SIFT.
    """
    if choice is None:
        _check_pretrained("sift")
        fitting = {name: spec for name, spec in pretrained.pretrained_specs().items() if spec.representation == "sift"}

        def misfit(name: str) -> tuple[bool, bool]:
            spec = fitting[name]
            return bool(spec.parameters.get("color")) != color, spec.variant != variant

        return _pretrained_inverter(min(fitting, key=misfit))
    inverter, name = named_inverter(choice)
    if inverter.spec.representation != "sift":
        raise ValueError(f"inverter {name} is for {inverter.spec.representation}, but must be for sift")
    return inverter, name


def pretrained_representations() -> dict[str, Spec]:
    """Return the specs of pretrained inverters by representation.

    Of several inverters, it is the one with the fewest channels, and of those the first by name.
    """
    found: dict[str, Spec] = {}
    for spec in sorted(pretrained.pretrained_specs().values(), key=lambda spec: spec.channels):
        found.setdefault(spec.representation, spec)
    return found


def _check_pretrained(representation: str) -> None:
    if representation not in pretrained_representations():
        raise LookupError(
            f"there is no pretrained inverter for {representation}: train one and name it (--inverter NAME_OR_FOLDER)"
        )


def _pretrained_inverter(name: str) -> tuple[Inverter, str]:
    return Inverter.load(pretrained.pretrained_folder(name)), name


def named_inverter(choice: NamedInverter) -> tuple[Inverter, str]:
    """Return the inverter and its name for summaries."""
    if isinstance(choice, Inverter):
        return choice, choice.spec.representation
    return Inverter.load(choice), str(choice)


@dataclasses.dataclass(frozen=True)
class Pairing:
    """A representation and the inverter for it.

    Attributes:
        representation: Representation that computes the features.
        inverter: Inverter of these features; ``None`` if there is none.
        name: Name or folder of the inverter; ``None`` without an inverter.
        missing: Reason why there is no inverter, one line; empty with an inverter.
    """

    representation: Representation
    inverter: Inverter | None
    name: str | None
    missing: str


def pairings(inverter: InverterChoices, representation: RepresentationChoices) -> list[Pairing]:
    """Return each representation with the inverter chosen for it, or else the pretrained one if it exists.

    Args:
        inverter: Any number of inverters, each for another representation.
        representation: Any number of representations; those given by name have the parameters of their inverter, or
            else the default ones. ``None`` for the representations of the inverters, or HOG without inverters.

    Raises:
        ValueError: An inverter for none of the representations or for other parameters, two inverters for one
            representation, or an unknown name.
    """
    chosen = _by_representation(_inverters(inverter))
    named = [representation] if isinstance(representation, str | Representation) else list(representation or ())
    # torch:package.module:factory runs code, so it may come from the caller, but not from the file of an inverter.
    asked = [create_representation(one) if isinstance(one, str) and ":" in one else one for one in named]
    asked = asked or list(chosen or ["hog"])
    names = [one if isinstance(one, str) else one.name for one in asked]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(repeated)} given more than once")
    for name, (_, called) in chosen.items():
        if name not in names:
            raise ValueError(f"inverter {called} is for {name}, not for {', '.join(names)}")
    return [_pairing(one, chosen.get(name)) for one, name in zip(asked, names, strict=True)]


def _inverters(choices: InverterChoices) -> list[NamedInverter]:
    if choices is None:
        return []
    return [choices] if isinstance(choices, Inverter | str | PathLike) else list(choices)


def _by_representation(choices: list[NamedInverter]) -> dict[str, tuple[Inverter, str]]:
    chosen: dict[str, tuple[Inverter, str]] = {}
    for choice in choices:
        inverter, called = named_inverter(choice)
        name = inverter.spec.representation
        if name in chosen:
            raise ValueError(f"two inverters for {name}: {chosen[name][1]} and {called}")
        chosen[name] = inverter, called
    return chosen


def _pairing(asked: Representation | str, chosen: tuple[Inverter, str] | None) -> Pairing:
    if chosen is None:
        representation = create_representation(asked) if isinstance(asked, str) else asked
        try:
            inverter, name = fitting_inverter(None, representation.spec, f"{representation.name} features")
        except LookupError as error:
            return Pairing(representation, None, None, str(error))
        return Pairing(representation, inverter, name, "")
    inverter, name = chosen
    representation = representation_from_spec(inverter.spec) if isinstance(asked, str) else asked
    _check_fit(name, inverter, representation.spec, f"{representation.name} features")
    return Pairing(representation, inverter, name, "")


def _check_fit(name: str, inverter: Inverter, spec: Spec, features_name: str) -> None:
    if differences := inverter.spec.differences(spec):
        raise ValueError(
            f"inverter {name} does not fit {features_name} (inverter != features): {'; '.join(differences)}"
        )
