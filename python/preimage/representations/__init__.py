"""Representations: named functions from images to features.

Names that need torch load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from preimage.representations.base import Parameter, Representation, parameter
from preimage.representations.cells import CellRepresentation
from preimage.representations.registry import (
    RepresentationInfo,
    create_representation,
    describe_representation,
    list_representations,
    register,
    representation_from_spec,
)

if TYPE_CHECKING:
    from preimage.representations.network import Network, NetworkRepresentation
    from preimage.representations.preprocessing import Preprocessing

__all__ = [
    "CellRepresentation",
    "Network",
    "NetworkRepresentation",
    "Parameter",
    "Preprocessing",
    "Representation",
    "RepresentationInfo",
    "create_representation",
    "describe_representation",
    "list_representations",
    "parameter",
    "register",
    "representation_from_spec",
]

_LAZY_NAMES = {"Network": "network", "NetworkRepresentation": "network", "Preprocessing": "preprocessing"}


def __getattr__(name: str) -> object:
    if name in _LAZY_NAMES:
        return getattr(import_module(f"preimage.representations.{_LAZY_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
