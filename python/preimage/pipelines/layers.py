"""List the layers of a network, and the shape of their features."""

from __future__ import annotations

import dataclasses
from typing import Any

from preimage.representations import create_representation, list_representations
from preimage.representations.network import Network, TracedLayer
from preimage.representations.network_factory import load_network


@dataclasses.dataclass(frozen=True)
class LayersSummary:
    """The layers of a network.

    Attributes:
        network: Name of the network, as in a spec.
        image_size: Side of its images in pixels.
        weights: Digest of its weights, as in a spec.
        layers: Layers called in a pass over one image, in the order in which they finish.
    """

    network: str
    image_size: int
    weights: str
    layers: tuple[TracedLayer, ...]


def layers(
    network: Network | str,
    *,
    preprocessing: str | None = None,
    input_size: int | None = None,
    weights: str | None = None,
) -> LayersSummary:
    """List the layers of a network by one pass over a black image.

    Args:
        network: Network, ``torch:package.module:factory``, ``timm:NAME``, ``hf:NAME``, or the name of a representation
            that is a layer of a network, such as ``efficientnet-lite0``. The other arguments are only for names.
        preprocessing: ``"imagenet-rgb"``, ``"caffe-bgr"`` or ``"unit"``. By default that of timm or transformers for
            the network, else ``"imagenet-rgb"``.
        input_size: Side of the images in pixels; by default that of timm or transformers for the network, else 224.
        weights: Path of the weights, passed to the factory, to timm or to the representation; ``"random"`` for timm and
            transformers.

    Raises:
        ValueError: No such network, an argument that it does not accept, or an error on an image of that size.
        ImportError, OSError: The weights of a representation are missing.
    """
    if isinstance(network, str) and network in list_representations():
        given = {"preprocessing": preprocessing, "input_size": input_size, "weights": weights}
        network = _network_of(network, {name: value for name, value in given.items() if value is not None})
    elif isinstance(network, str):
        network = load_network(network, preprocessing=preprocessing, input_size=input_size, weights=weights)
    return LayersSummary(network.name, network.image_size, network.weights, tuple(network.trace()))


def _network_of(name: str, given: dict[str, Any]) -> Network:
    network = getattr(create_representation(name, **given), "network", None)
    if not isinstance(network, Network):
        raise ValueError(
            f"network must be torch:package.module:factory or a representation that is a layer, got {name!r}"
        )
    return network
