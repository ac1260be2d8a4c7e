"""Representations: named functions from images to features. The names load on first use, some need torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from preimage.representations.base import Representation, create, from_spec, names, parameters, register

if TYPE_CHECKING:
    from preimage.representations.network import Network, NetworkRepresentation
    from preimage.representations.preprocessing import Preprocessing

__all__ = [
    "Network",
    "NetworkRepresentation",
    "Preprocessing",
    "Representation",
    "create",
    "from_spec",
    "names",
    "parameters",
    "register",
]

_HOMES = {"Network": "network", "NetworkRepresentation": "network", "Preprocessing": "preprocessing"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"preimage.representations.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
