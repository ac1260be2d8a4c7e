"""Which inverter goes with which features."""

from __future__ import annotations

from os import PathLike

from preimage import inverters
from preimage.inverters import Inverter
from preimage.inverters.files import read_config, resolve
from preimage.spec import Spec

InverterChoice = Inverter | str | PathLike[str] | None


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
        if spec.representation not in _shipped_representations():
            raise LookupError(
                f"no inverter for {spec.representation} is shipped: train one and name it (--inverter NAME_OR_FOLDER)"
            )
        try:
            choice = inverters.find(spec)
        except LookupError as error:
            raise LookupError(f"{features_name}: {error} (--inverter NAME_OR_FOLDER)") from error
    inverter = choice if isinstance(choice, Inverter) else Inverter.load(choice)
    if differences := inverter.spec.differences(spec):
        named = "the inverter" if isinstance(choice, Inverter) else f"inverter {choice}"
        raise ValueError(f"{named} does not fit {features_name} (inverter != features): {'; '.join(differences)}")
    return inverter


def _shipped_representations() -> set[str]:
    """What there are shipped inverters for, whatever its parameters."""
    specs = (read_config(resolve(name))["spec"] for name in inverters.shipped())
    return {Spec.from_dict(spec).representation for spec in specs}


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
