"""The spec of features: everything that decides their numbers, stored with every file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from preimage.errors import parse_json
from preimage.old_names import SPEC_PARAMETERS, renamed

Scalar = bool | int | float | str | None

USER_VARIANT = "user"  # variant of features that were computed by other programs


@dataclasses.dataclass(frozen=True)
class Spec:
    """A representation with every parameter that changes the values of its features.

    An inverter accepts the features of a file if and only if their specs are equal.

    Attributes:
        representation: Registered name, for example ``"hog"``.
        variant: Definition of the features, with a stated reference implementation, for example ``"vlfeat-uoctti"``.
        channels: Number of channels C of features (B, C, h, w) or vectors (B, C).
        stride: Pixels between neighboring feature cells; ``None`` for vectors.
        parameters: All other parameters by name, only scalars.
        version: Number that increases whenever the features for the same parameters change.
    """

    representation: str
    variant: str
    channels: int
    stride: int | None
    parameters: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)
    version: int = 1

    def __post_init__(self) -> None:
        kinds = {"representation": str, "variant": str, "channels": int, "version": int}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise TypeError(f"spec field {name!r} must be {kind.__name__}, got {value!r}")
        if self.channels < 1 or self.version < 1:
            raise ValueError(f"channels and version must be at least 1, got {self.channels} and {self.version}")
        if self.stride is not None and (not isinstance(self.stride, int) or self.stride < 1):
            raise ValueError(f"stride must be an integer of at least 1 or None, got {self.stride!r}")
        if not isinstance(self.parameters, Mapping):
            raise TypeError(f"parameters must be a mapping of names to scalars, got {self.parameters!r}")
        for name, value in self.parameters.items():
            if not isinstance(name, str) or not isinstance(value, Scalar):
                raise TypeError(f"parameter {name!r} must be a scalar under a string name, got {value!r}")
        object.__setattr__(self, "parameters", MappingProxyType(dict(sorted(self.parameters.items()))))

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __reduce__(self) -> tuple[Any, ...]:
        return Spec.from_json, (self.to_json(),)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"parameters": dict(self.parameters)}

    def to_json(self) -> str:
        """Return one line of JSON with sorted keys; equal specs give equal text."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Spec:
        """Return the spec with the fields of `to_dict`; ``ValueError`` names missing and unknown fields."""
        if not isinstance(fields, Mapping):
            raise ValueError(f"a spec must be a JSON object, got {type(fields).__name__}")
        known = {field.name for field in dataclasses.fields(cls)}
        if missing := sorted(known - set(fields)):
            raise ValueError(f"the spec lacks {', '.join(missing)}")
        if unknown := sorted(set(fields) - known):
            raise ValueError(f"the spec has unknown fields {', '.join(unknown)}: written by a newer version?")
        parameters = fields["parameters"]
        if isinstance(parameters, Mapping):
            fields = {**fields, "parameters": renamed(parameters, SPEC_PARAMETERS)}
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(str(error)) from error

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Return the spec that `to_json` returned as text; ``ValueError`` for other text."""
        return cls.from_dict(parse_json(text))

    def differences(self, other: Spec) -> list[str]:
        """Return the fields in which two specs differ, one phrase each; empty for equal specs.

        For example ``["parameters.cell_size: 8 != 4"]``, with the value of this spec first.
        """
        ours, theirs = _flat(self.to_dict()), _flat(other.to_dict())
        names = sorted(ours.keys() | theirs.keys())
        absent = "absent"
        return [
            f"{name}: {ours.get(name, absent)!r} != {theirs.get(name, absent)!r}"
            for name in names
            if ours.get(name, absent) != theirs.get(name, absent)
        ]


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in fields.items() if name != "parameters"}
    return flat | {f"parameters.{name}": value for name, value in fields["parameters"].items()}
