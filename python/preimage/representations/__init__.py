"""Representations: named functions from images to features."""

from preimage.representations import alexnet, dense_sift, hog, lbp, network_factory, sift  # noqa: F401 - registers them
from preimage.representations.base import Representation, create, from_spec, names, parameters, register
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
